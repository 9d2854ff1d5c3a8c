"""Principled coarse-graining: speculative decoding that is exact for the group of a token, not for the token.

Source: Yanuka et al. 2025, arXiv 2511.13732. Its abstract was read, its equations were not: the overlap-aware split,
the group test and the residual are ours from that description (DESIGN section 3). Choices of ours: a token is split
evenly over its groups, and after a rejection the target (``residual: target``) or the draft picks the token inside the
recovered group. ``floor`` (only plausible members are grouped) is ours too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance import thinning
from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.outcomes import Outcomes
from pcg.acceptance.steps import at_end, leading
from pcg.constraints import SHARE_ABOVE_0, checked, one_of
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw, draw_several
from pcg.types import Verdict

SMALLEST = 1e-30  # group mass of the draft below which it has no say: a float32 ratio to it would overflow


@checked
@dataclass(frozen=True)
class PCG:
    """Draw ``k`` from ``w[., x]``; keep ``x`` when ``u < P_c(k)/Q_c(k)``; recover in a group from ``(P_c - Q_c)+``.

    Group law: ``k ~ Q_c``, so the group variable goes through exact speculative decoding from ``Q_c`` to ``P_c`` and
    has law ``P_c``, whichever model picks the token inside a recovered group.

    Token law: ``t`` is drafted and kept with probability ``q(t) sum_k w[k,t] min(1, P_c(k)/Q_c(k))``. A group ``k`` is
    recovered with probability ``(P_c(k) - Q_c(k))+`` in all, and emits ``t`` with ``w[k,t] p(t)/P_c(k)``, which adds
    ``p(t) sum_k w[k,t] (1 - Q_c(k)/P_c(k))+``. With ``residual: draft`` it emits ``t`` with ``w[k,t] q(t)/Q_c(k)``, and
    the two parts add up to ``q(t) sum_k w[k,t] P_c(k)/Q_c(k)``; where ``Q_c(k) = 0`` the target picks.

    Recovering needs no dense ``P_c``: thinning proposes ``t ~ p``, ``k ~ w[., t]`` and keeps the pair with
    ``(1 - Q_c(k)/P_c(k))+``; a kept pair has law ``p(t) w[k,t] (1 - Q_c(k)/P_c(k))+``, normalised, which is the above.

    With a ``floor``, tokens of ``p(t) < floor max p`` stand alone at this position. Token to group is still a Markov
    kernel, and it may depend on ``p``, which is the same for draft and target: so the group law stays ``P_c``, alpha is
    never below exact's, and the above holds with sums over plausible members. A token that stands alone has the law
    ``min(p, q) + (p - q)+ = p(t)``: none gets more than the target gives it.

    Args:
        residual: ``target`` or ``draft``, the model that picks the token inside a recovered group.
        floor: share of the target's largest probability, above 0, from which on a token is grouped; None groups all.
    """

    groups: GroupTable
    residual: Annotated[str, one_of("target", "draft")] = "target"
    floor: Annotated[float, SHARE_ABOVE_0] | None = None
    outcomes: Outcomes = field(init=False, repr=False, compare=False)  # what a token is tested as

    def __post_init__(self) -> None:
        object.__setattr__(self, "outcomes", Outcomes(self.groups, self.floor))

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions, self.groups)
        gamma = draft_tokens.shape[1]
        numbers = randomness.block(positions, gamma + 1)
        accepted = self.keep(draft_tokens, draft_probs, target_probs, numbers[:, :gamma])

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        residual = self.left(draft_end, target_end, positions + accepted, randomness)
        return thinning.emit(accepted, residual, target_end, positions, numbers, randomness)

    def keep(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        numbers: Float[Tensor, "batch gamma purposes"],
    ) -> Int[Tensor, "batch"]:
        groups = self.groups.draw_group(draft_tokens, numbers[..., Purpose.GROUP])
        draft, target = self.outcomes.masses_of(draft_tokens, groups, draft_probs, target_probs[:, :-1])
        return leading(numbers[..., Purpose.ACCEPT] * draft < target)

    def left(
        self,
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        at: Int[Tensor, "batch"],
        randomness: Randomness,
        share: float | Float[Tensor, "batch 1"] = 1.0,
    ) -> GroupResidual:
        """What is left of the target after a rejection at ``at``; of a ``share`` of it in block verification."""
        uniform = randomness.uniform(at, Purpose.RECOVERED) if self.residual == "draft" else None
        return GroupResidual(self.outcomes, draft_end, target_end, share, uniform)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        return self.law_and_acceptance(draft_probs, target_probs)[0]

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """``sum_k min(P_c(k), Q_c(k))``, never below exact's: token to group is a Markov kernel."""
        check_pair(draft_probs, target_probs, self.groups)
        return self.outcomes.mass(torch.stack([draft_probs, target_probs]), target_probs).amin(0).sum(-1)

    def law_and_acceptance(self, draft_probs: Probs, target_probs: Probs) -> tuple[Probs, Rates]:
        """Both, at the cost of one. With ``residual: target`` and ``m = min(P_c, Q_c)`` the token law above is
        ``q(t) sum_k w[k,t] m(k)/Q_c(k) + p(t) (1 - sum_k w[k,t] m(k)/P_c(k))``: one sum over the table each way."""
        check_pair(draft_probs, target_probs, self.groups)
        masses = self.outcomes.mass(torch.stack([draft_probs, target_probs]), target_probs)
        shared = masses.amin(0)
        shares = shared / torch.where(masses > 0, masses, 1)
        if self.residual == "target":
            by_draft, by_target = self.outcomes.spread(shares, target_probs)
            law = draft_probs * by_draft + target_probs * (1 - by_target)
        else:
            excess = masses[1] - shared
            kept = draft_probs * self.outcomes.spread(shares[0], target_probs)
            law = kept + by_draft_within(self.outcomes, excess, draft_probs, target_probs, *masses)
        return law, shared.sum(-1)


@dataclass(frozen=True)
class GroupResidual:
    """A group from ``(c P_c - Q_c)+``, then a member of it. ``PCG`` has the law, ``thinning.Residual`` the form.

    Attributes:
        share: ``c``, what block verification has left of the target; 1 is all of it.
        uniform: with which the draft picks the member; None where the target picks.
    """

    outcomes: Outcomes
    draft: Float[Tensor, "batch vocab"]
    target: Float[Tensor, "batch vocab"]
    share: float | Float[Tensor, "batch 1"] = 1.0
    uniform: Float[Tensor, "batch"] | None = None

    def keep(self, rows: Int[Tensor, "kept"]) -> GroupResidual:
        return replace(
            self,
            draft=self.draft[rows],
            target=self.target[rows],
            share=self.share[rows] if isinstance(self.share, Tensor) else self.share,
            uniform=None if self.uniform is None else self.uniform[rows],
        )

    def propose(self, numbers: Float[Tensor, "batch trials 3"]) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
        tokens, groups, kept = self.trials(numbers)
        if self.uniform is None:
            token, passed = thinning.first(kept, tokens)
            return token, passed
        token, group, passed = thinning.first(kept, tokens, groups)
        return self._pick_by_draft(group, token, self.uniform), passed

    def trials(
        self, numbers: Float[Tensor, "batch trials 3"]
    ) -> tuple[Int[Tensor, "batch trials"], Int[Tensor, "batch trials"], Bool[Tensor, "batch trials"]]:
        """Pairs ``t ~ p, k ~ w[., t]``, and which of them are kept: where the third number is below
        ``c - Q_c(k)/P_c(k)``."""
        trial, group, keep = numbers.unbind(2)
        tokens = draw_several(self.target, trial)
        groups = self.outcomes.groups.draw_group(tokens, group)
        draft, target = self.draft.unsqueeze(1), self.target.unsqueeze(1)
        draft_mass, target_mass = self.outcomes.masses_of(tokens, groups, draft, target)
        return tokens, groups, draft_mass < (self.share - keep) * target_mass

    def _pick_by_draft(
        self, group: Int[Tensor, "batch"], token: Int[Tensor, "batch"], uniform: Float[Tensor, "batch"]
    ) -> Int[Tensor, "batch"]:
        """A member of the group by the draft's probabilities; the target's choice where the draft gives it none."""
        members, weights = self.outcomes.groups.members_of(group)
        weights = self.draft.gather(1, members) * weights
        if self.outcomes.floor is not None:  # of the plausible members; a token that stands alone stays
            target, bar = self.target.gather(1, torch.cat([members, token[:, None]], 1)), self.outcomes.bar(self.target)
            weights = weights * ((target[:, :-1] >= bar) & (target[:, -1:] >= bar))
        picked = members.gather(1, draw(weights, uniform).unsqueeze(1)).squeeze(1)
        return torch.where(weights.sum(1) > SMALLEST, picked, token)

    def weights(self, wanted: Bool[Tensor, ""] | None) -> Float[Tensor, "batch vocab"]:
        """The dense form, over the whole table; the target where rounding leaves nothing."""
        probs = torch.stack([self.draft, self.target])
        draft_mass, target_mass = self.outcomes.mass(probs, self.target, wanted)
        excess = (self.share * target_mass - draft_mass).clamp(min=0)
        if self.uniform is None:
            ratio = excess / torch.where(excess > 0, target_mass, 1)
            recovered = self.target * self.outcomes.spread(ratio, self.target, wanted)
        else:
            recovered = by_draft_within(self.outcomes, excess, self.draft, self.target, draft_mass, target_mass, wanted)
        return torch.where((recovered > 0).any(1, keepdim=True), recovered, self.target)

    def total(self, wanted: Bool[Tensor, ""] | None = None) -> Float[Tensor, "batch"]:
        """``sum_k (c P_c(k) - Q_c(k))+``. ``wanted``: as in ``weights``."""
        return self.outcomes.mass(self.share * self.target - self.draft, self.target, wanted).clamp(min=0).sum(1)


def by_draft_within(
    outcomes: Outcomes,
    excess: Float[Tensor, "*batch outcomes"],
    draft_probs: Probs,
    target_probs: Probs,
    draft_mass: Float[Tensor, "*batch outcomes"],
    target_mass: Float[Tensor, "*batch outcomes"],
    wanted: Bool[Tensor, ""] | None = None,
) -> Probs:
    """Law of the token where an outcome comes with ``excess`` and the draft picks in it; where the draft has no say,
    the target does."""
    drafted = draft_mass > SMALLEST
    by_draft = excess * drafted / torch.where(drafted, draft_mass, 1)
    by_target = excess * ~drafted / torch.where(target_mass > 0, target_mass, 1)
    by_draft, by_target = (outcomes.spread(values, target_probs, wanted) for values in (by_draft, by_target))
    return draft_probs * by_draft + target_probs * by_target
