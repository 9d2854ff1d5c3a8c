"""Principled coarse-graining: speculative decoding that is exact for the group of a token, not for the token.

Source: Yanuka et al. 2025, arXiv 2511.13732. Its abstract was read, its equations were not: the overlap-aware split,
the group test and the residual are ours from that description (DESIGN section 3). Choices of ours: a token is split
evenly over its groups, and after a rejection the target (``residual: target``) or the draft picks the token inside the
recovered group. ``floor`` (only plausible members are grouped) is ours too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import check_block, check_pair
from pcg.acceptance.steps import at_end, leading
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw, draw_several, may_look, single
from pcg.types import Verdict

SMALLEST = 1e-30  # group mass of the draft below which it has no say: a float32 ratio to it would overflow
# Thinning draws that a row has had after each stage; rows that keep none go on to the next, at last the dense way. 95 %
# of the bundled pair's rejections are recovered by the first few.
TRIALS = 6, 24, 184
MANY = 256  # rows, from which on the draws of a stage cost more than one stage more


@dataclass(frozen=True)
class PCG:
    """Draw ``k`` from ``w[., x]``; keep ``x`` when ``u < P_c(k)/Q_c(k)``; recover in a group from ``(P_c - Q_c)+``.

    Group law: ``k ~ Q_c``, so the group variable goes through exact speculative decoding from ``Q_c`` to ``P_c`` and
    has law ``P_c``, whichever model picks the token inside a recovered group.

    Token law: ``t`` is drafted and kept with probability ``q(t) sum_k w[k,t] min(1, P_c(k)/Q_c(k))``. A group ``k`` is
    recovered with probability ``(P_c(k) - Q_c(k))+`` in all, and emits ``t`` with ``w[k,t] p(t)/P_c(k)``, which adds
    ``p(t) sum_k w[k,t] (1 - Q_c(k)/P_c(k))+``. With ``residual: draft`` it emits ``t`` with ``w[k,t] q(t)/Q_c(k)``, and
    the two parts add up to ``q(t) sum_k w[k,t] P_c(k)/Q_c(k)``; where ``Q_c(k) = 0`` the target picks.

    Recovering needs no dense ``P_c``: repeat {``t ~ p``, ``k ~ w[., t]``, keep with ``(1 - Q_c(k)/P_c(k))+``}; a kept
    pair has law ``p(t) w[k,t] (1 - Q_c(k)/P_c(k))+``, normalised, which is the above.

    With a ``floor``, tokens of ``p(t) < floor max p`` stand alone at this position. Token to group is still a Markov
    kernel, and it may depend on ``p``, which is the same for draft and target: so the group law stays ``P_c``, alpha is
    never below exact's, and the above holds with sums over plausible members. A token that stands alone has the law
    ``min(p, q) + (p - q)+ = p(t)``: none gets more than the target gives it.

    Args:
        residual: ``target`` or ``draft``, the model that picks the token inside a recovered group.
        floor: share of the target's largest probability, above 0, from which on a token is grouped; None groups all.
    """

    groups: GroupTable
    residual: str = "target"
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.residual not in ("target", "draft"):
            raise ValueError(f"pcg: residual={self.residual!r}, want target or draft")
        check_floor("pcg", self.floor)

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
        ends = accepted.tolist() if may_look(accepted) else [0, gamma]  # where nobody may look, both are drawn
        if gamma not in ends:
            return Verdict(accepted, self.recover(draft_end, target_end, positions + accepted, randomness))
        bonus = draw(target_end, numbers[:, gamma, Purpose.BONUS])
        if min(ends) == gamma:
            return Verdict(accepted, bonus)
        recovered = self.recover(draft_end, target_end, positions + accepted, randomness)
        return Verdict(accepted, torch.where(accepted < gamma, recovered, bonus))

    def keep(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        numbers: Float[Tensor, "batch gamma purposes"],
    ) -> Int[Tensor, "batch"]:
        groups = self.groups.draw_group(draft_tokens, numbers[..., Purpose.GROUP])
        draft_mass, target_mass = self.masses(draft_tokens, groups, draft_probs, target_probs[:, :-1])
        return leading(numbers[..., Purpose.ACCEPT] * draft_mass < target_mass)

    def masses(
        self,
        tokens: Int[Tensor, "batch n"],
        groups: Int[Tensor, "batch n"],
        draft_probs: Float[Tensor, "batch n vocab"],
        target_probs: Float[Tensor, "batch n vocab"],
        bar: Float[Tensor, "batch #n 1"] | None = None,
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """``Q_c`` and ``P_c`` of each token's group under its own distributions, from its members alone."""
        members, weights = self.groups.members_of(groups)
        draft, target = draft_probs.gather(2, members), target_probs.gather(2, members)
        if self.floor is None:
            return (draft * weights).sum(2), (target * weights).sum(2)
        bar, token = _bar(target_probs, self.floor) if bar is None else bar, tokens.unsqueeze(2)
        weights = weights * (target >= bar)
        own_draft, own_target = draft_probs.gather(2, token), target_probs.gather(2, token)
        alone = own_target < bar
        return (
            torch.where(alone, own_draft, (draft * weights).sum(2, keepdim=True)).squeeze(2),
            torch.where(alone, own_target, (target * weights).sum(2, keepdim=True)).squeeze(2),
        )

    def recover(
        self,
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        at: Int[Tensor, "batch"],
        randomness: Randomness,
        share: float | Float[Tensor, "batch 1"] = 1.0,
        had: int = 0,
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Int[Tensor, "batch"]:
        """A token from the residual ``(c P_c - Q_c)+``; rows that were not rejected (draft all 0) get some token.

        Where nobody may look which rows are left, all go through every stage, and each takes the token of the first
        that has one for it.

        Args:
            at: position of the token.
            share: ``c``, what block verification has left of the target; 1 of all of it.
            had: trials before this stage.
            wanted: whether a row is left for this stage; None is true.
        """
        if had == TRIALS[-1]:
            weights = self._dense_residual(draft_end, target_end, share, wanted)
            return draw(weights, randomness.uniform(at, Purpose.RECOVERED))
        trials = next_stage(had, at)
        numbers = randomness.draws(at, Purpose.TRIAL, 3 * trials)[:, 3 * had :].reshape(len(at), -1, 3)
        token, group, found = self._thin(draft_end, target_end, share, numbers)
        if group is not None:
            uniform = randomness.uniform(at, Purpose.RECOVERED)
            token = self._pick_by_draft(group, token, draft_end, target_end, uniform)
        if not may_look(found):
            rest = self.recover(draft_end, target_end, at, randomness, share, trials, ~found.all())
            return torch.where(found, token, rest)
        if all(found.tolist()):
            return token
        if single(found):
            return self.recover(draft_end, target_end, at, randomness, share, trials)
        left = (~found).nonzero().squeeze(1)
        rows = draft_end[left], target_end[left], at[left], randomness.keep(left)
        token[left] = self.recover(*rows, share[left] if isinstance(share, Tensor) else share, trials)
        return token

    def _thin(
        self,
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        share: float | Float[Tensor, "batch 1"],
        numbers: Float[Tensor, "batch trials 3"],
    ) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"] | None, Bool[Tensor, "batch"]]:
        """The token of the first pair that thinning keeps, its group if the draft picks in it, whether any is kept."""
        tokens, groups, kept = self.trials(draft_end, target_end, share, numbers)
        if single(kept):
            [row] = kept.tolist()
            first = row.index(True) if True in row else 0
            return tokens[:, first], groups[:, first] if self.residual == "draft" else None, kept[:, first]
        at = kept.byte().argmax(1, keepdim=True)  # of several that are kept, the first
        group = groups.gather(1, at).squeeze(1) if self.residual == "draft" else None
        return tokens.gather(1, at).squeeze(1), group, kept.any(1)

    def trials(
        self,
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        share: float | Float[Tensor, "batch 1"],
        numbers: Float[Tensor, "batch trials 3"],
    ) -> tuple[Int[Tensor, "batch trials"], Int[Tensor, "batch trials"], Bool[Tensor, "batch trials"]]:
        """Pairs ``t ~ p, k ~ w[., t]``, and which of them are kept: each with ``(c - Q_c(k)/P_c(k))+``.

        The third number decides; where it is below ``c - Q_c(k)/P_c(k)``, its pair is kept.
        """
        trial, group, keep = numbers.unbind(2)
        tokens = draw_several(target_end, trial)
        groups = self.groups.draw_group(tokens, group)
        draft, target = (probs.unsqueeze(1).expand(-1, tokens.shape[1], -1) for probs in (draft_end, target_end))
        bar = None if self.floor is None else _bar(target_end, self.floor).unsqueeze(1)  # once for all trials
        draft_mass, target_mass = self.masses(tokens, groups, draft, target, bar)
        return tokens, groups, draft_mass < (share - keep) * target_mass

    def _pick_by_draft(
        self,
        group: Int[Tensor, "batch"],
        token: Int[Tensor, "batch"],
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        uniform: Float[Tensor, "batch"],
    ) -> Int[Tensor, "batch"]:
        """A member of the group by the draft's probabilities; the target's choice where the draft gives it none."""
        members, weights = self.groups.members_of(group)
        weights = draft_end.gather(1, members) * weights
        if self.floor is not None:  # of the plausible members; a token that stands alone stays
            target, bar = target_end.gather(1, torch.cat([members, token[:, None]], 1)), _bar(target_end, self.floor)
            weights = weights * ((target[:, :-1] >= bar) & (target[:, -1:] >= bar))
        picked = members.gather(1, draw(weights, uniform).unsqueeze(1)).squeeze(1)
        return torch.where(weights.sum(1) > SMALLEST, picked, token)

    def _dense_residual(
        self,
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        share: float | Float[Tensor, "batch 1"],
        wanted: Bool[Tensor, ""] | None,
    ) -> Float[Tensor, "batch vocab"]:
        """Weights of the recovered token over the vocabulary; the target where rounding leaves nothing."""
        grouped = self._plausible(target_end)
        draft, target = draft_end * grouped, target_end * grouped
        draft_mass, target_mass = self.groups.coarse(torch.stack([draft, target]), wanted)
        recovered = self._recovered(draft, target, draft_mass, target_mass, share, wanted)
        recovered = recovered + (share * target_end - draft_end).clamp(min=0) * ~grouped
        return torch.where((recovered > 0).any(1, keepdim=True), recovered, target_end)

    def outcome(
        self,
        tokens: Int[Tensor, "batch n"],
        target_probs: Float[Tensor, "batch vocab"],
        uniform: Float[Tensor, "batch n"],
    ) -> Int[Tensor, "batch n"]:
        """A group of each token, drawn; of one that stands alone, itself: numbered after the groups."""
        grouped = self._plausible(target_probs).gather(1, tokens)
        return torch.where(grouped, self.groups.draw_group(tokens, uniform), len(self.groups) + tokens)

    def mass(
        self, probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch outcomes"]:
        grouped = self._plausible(target_probs)
        return torch.cat([self.groups.coarse(probs * grouped), probs * ~grouped], -1)

    def spread(
        self, values: Float[Tensor, "*batch outcomes"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch vocab"]:
        in_groups, alone = values.split([len(self.groups), self.groups.vocab_size], -1)
        return torch.where(self._plausible(target_probs), self.groups.spread(in_groups), alone)

    def law(
        self, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch vocab"]:
        return self.law_and_acceptance(draft_probs, target_probs)[0]

    def expected_acceptance(
        self, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch"]:
        """``sum_k min(P_c(k), Q_c(k))``, never below exact's: token to group is a Markov kernel."""
        check_pair(draft_probs, target_probs, self.groups)
        grouped = self._plausible(target_probs)
        masses = self.groups.coarse(torch.stack([draft_probs * grouped, target_probs * grouped]))
        return masses.amin(0).sum(-1) + (draft_probs.minimum(target_probs) * ~grouped).sum(-1)

    def law_and_acceptance(
        self, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> tuple[Float[Tensor, "*batch vocab"], Float[Tensor, "*batch"]]:
        """Both, at the cost of one. With ``residual: target`` and ``m = min(P_c, Q_c)`` the token law above is
        ``q(t) sum_k w[k,t] m(k)/Q_c(k) + p(t) (1 - sum_k w[k,t] m(k)/P_c(k))``: one sum over the table each way."""
        check_pair(draft_probs, target_probs, self.groups)
        grouped = self._plausible(target_probs)
        draft, target = draft_probs * grouped, target_probs * grouped
        masses = self.groups.coarse(torch.stack([draft, target]))
        shared = masses.amin(0)
        shares = shared / torch.where(masses > 0, masses, 1)
        if self.residual == "target":
            by_draft, by_target = self.groups.spread(shares)
            law = draft * by_draft + target * (1 - by_target)
        else:
            law = draft * self.groups.spread(shares[0]) + self._recovered(draft, target, *masses)
        alone = draft_probs.minimum(target_probs) * ~grouped
        return law + target_probs * ~grouped, shared.sum(-1) + alone.sum(-1)

    def left(
        self,
        draft_probs: Float[Tensor, "batch vocab"],
        target_probs: Float[Tensor, "batch vocab"],
        share: float | Float[Tensor, "batch 1"],
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Float[Tensor, "batch"]:
        """``sum_k (c P_c(k) - Q_c(k))+``, the tokens that stand alone included. ``wanted``: as of ``coarse``."""
        grouped = self._plausible(target_probs)
        excess = share * target_probs - draft_probs
        in_groups = self.groups.coarse(excess * grouped, wanted)
        return in_groups.clamp(min=0).sum(1) + (excess.clamp(min=0) * ~grouped).sum(1)

    def _plausible(self, target_probs: Float[Tensor, "*batch vocab"]) -> Bool[Tensor, "*batch vocab"]:
        """The tokens that are grouped: all without a floor."""
        return target_probs >= _bar(target_probs, self.floor or 0.0)

    def _recovered(
        self,
        draft_probs: Float[Tensor, "*batch vocab"],
        target_probs: Float[Tensor, "*batch vocab"],
        draft_mass: Float[Tensor, "*batch groups"],
        target_mass: Float[Tensor, "*batch groups"],
        share: float | Float[Tensor, "*batch 1"] = 1.0,
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Float[Tensor, "*batch vocab"]:
        """Probability that a token is recovered: drafted, rejected and emitted by the residual ``(c P_c - Q_c)+``."""
        excess = (share * target_mass - draft_mass).clamp(min=0)
        if self.residual == "target":
            return target_probs * self.groups.spread(excess / torch.where(excess > 0, target_mass, 1), wanted)
        drafted = draft_mass > SMALLEST  # where the draft has no say, the target chooses within a group
        by_draft = excess * drafted / torch.where(drafted, draft_mass, 1)
        by_target = excess * ~drafted / torch.where(target_mass > 0, target_mass, 1)
        by_draft, by_target = (self.groups.spread(each, wanted) for each in (by_draft, by_target))
        return draft_probs * by_draft + target_probs * by_target


def next_stage(had: int, rows: Int[Tensor, "rows"] | Bool[Tensor, "rows"]) -> int:
    """How many trials there are after the stage that follows ``had``.

    The first few are a stage of their own for one row and for very many; for some rows, and where nobody may look and
    all go through every stage, it would cost more than it saves. What a row draws is the same.
    """
    few = single(rows) or (len(rows) > MANY and may_look(rows))
    stages = TRIALS if few else TRIALS[1:] or TRIALS
    return next(trials for trials in stages if trials > had)


def check_floor(rule: str, floor: float | None) -> None:
    if floor is not None and not 0 < floor <= 1:
        raise ValueError(f"{rule}: floor={floor}, want above 0 up to 1, or null")


def _bar(target_probs: Float[Tensor, "*batch vocab"], floor: float) -> Float[Tensor, "*batch 1"]:
    return floor * target_probs.amax(-1, keepdim=True)
