"""Several candidates for each position, drawn independently from one draft and tested one after another.

Source: recursive rejection, SpecInfer (arXiv 2305.09781, multi-step speculative sampling), here with candidates of one
draft. After a rejection the rest has law ``(P - Q)+``, normalised, and the next candidate is tested against that.
SpecTr's K-SEQ (2310.15141) tests all candidates against the same law; docs/trees.md compares what the two keep. Ours:
the same on groups, since PCG is exact speculative decoding of the group. Candidates are drawn with replacement, so that
each position has a law in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end
from pcg.decoding.tree import OutcomeRule, StarVerdict
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, check_probabilities, draw

_SMALLEST = 1e-30  # a residual with a smaller sum is a rounding error


@dataclass(frozen=True)
class Candidates:
    """``rule`` with ``count`` candidates at each position, of which the first is continued as a chain.

    With ``P_0 = P`` and ``P_j = (P_{j-1} - Q)+``, normalised, candidate j (from 0) is kept when ``u_j < P_j(o)/Q(o)``
    for its outcome ``o``; if none is, an outcome is recovered from ``P_count``, and the target picks the token in it.

    Outcome law: candidate j is kept with mass ``min(P_j, Q)`` or leaves ``(P_j - Q)+``, and the two add up to ``P_j``;
    so by induction from the last candidate the outcome has law ``P_0``. For exact that is the target's law of the
    token, for pcg that of the group.

    Token law: ``open_j``, the probability that candidate j is tested, is ``prod_{i<j} (1 - sum min(P_i, Q))``. Then
    ``q(t) sum_o w[o,t] sum_j open_j min(1, P_j(o)/Q(o)) + open_count p(t) sum_o w[o,t] P_count(o)/P(o)``.
    """

    rule: OutcomeRule
    count: int

    def __post_init__(self) -> None:
        if self.count < 2:
            raise ValueError(f"candidates={self.count}: 2 or more are needed")
        if getattr(self.rule, "residual", "target") != "target":
            raise ValueError("candidates support only residual=target")

    @property
    def groups(self) -> GroupTable | None:
        """The groups of the rule, if it has some."""
        return getattr(self.rule, "groups", None)

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma count"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch nodes vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> StarVerdict:
        gamma, rows = draft_tokens.shape[1], torch.arange(len(draft_tokens), device=positions.device)
        chain, after_rivals = target_probs.split([gamma + 1, gamma * (self.count - 1)], 1)
        check_block(draft_tokens[..., 0], draft_probs, chain, positions)
        check_probabilities(target_probs=target_probs)
        numbers = randomness.block(positions, gamma + 1)
        accepted = self.rule.keep(draft_tokens[..., 0], draft_probs, chain, numbers[:, :gamma])

        draft_end, target_end = at_end(accepted, draft_probs, chain)
        at, stopped = accepted.clamp(max=gamma - 1), accepted < gamma
        rival, recovered = self._try_rivals(
            draft_tokens[rows, at, 1:], draft_end, target_end, positions + accepted, randomness
        )
        rival = rival * stopped
        after = after_rivals[rows, at * (self.count - 1) + rival.clamp(min=1) - 1]
        weights = torch.where((rival > 0).unsqueeze(1), after, recovered)
        total = accepted + (rival > 0)
        bonus = randomness.uniform(positions + total, Purpose.BONUS)
        number = torch.where(stopped & (rival == 0), numbers[rows, accepted, Purpose.RECOVERED], bonus)
        return StarVerdict(total, draw(weights, number), rival)

    def _try_rivals(
        self,
        tokens: Int[Tensor, "batch rivals"],
        draft_end: Float[Tensor, "batch vocab"],
        target_end: Float[Tensor, "batch vocab"],
        at: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> tuple[Int[Tensor, "batch"], Float[Tensor, "batch vocab"]]:
        """The first rival that is kept (0: none), and the weights of the token recovered if none is."""
        accept, group = (randomness.draws(at, kind, self.count)[:, 1:] for kind in (Purpose.ACCEPT, Purpose.GROUP))
        outcomes = self.rule.outcomes.draw(tokens, target_end, group)
        drafted, whole = self._masses(draft_end, target_end)
        left, rival = _rest(whole, drafted), torch.zeros_like(at)
        for place in range(1, self.count):
            outcome = outcomes[:, place - 1 : place]
            kept = accept[:, place - 1 : place] * drafted.gather(1, outcome) < left.gather(1, outcome)
            rival = torch.where(kept.squeeze(1) & (rival == 0), place, rival)
            left = _rest(left, drafted)
        return rival, self._recovered(left, whole, target_end)

    def _recovered(
        self,
        left: Float[Tensor, "*batch outcomes"],
        whole: Float[Tensor, "*batch outcomes"],
        target_probs: Probs,
    ) -> Probs:
        """The law of the token if an outcome is recovered from ``left``; the target's if rounding leaves nothing."""
        recovered = target_probs * self.rule.outcomes.spread(left / torch.where(whole > 0, whole, 1), target_probs)
        return torch.where((recovered > 0).any(-1, keepdim=True), recovered, target_probs)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        drafted, whole = self._masses(draft_probs, target_probs)
        keep, still_open, left = self._through(drafted, whole)
        kept = draft_probs * self.rule.outcomes.spread(keep, target_probs)
        return kept + still_open * self._recovered(left, whole, target_probs)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """The probability that one of the candidates is kept, ``1 - open_count``."""
        check_pair(draft_probs, target_probs)
        return 1 - self._through(*self._masses(draft_probs, target_probs))[1].squeeze(-1)

    def first_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        return self.rule.expected_acceptance(draft_probs, target_probs)

    def _masses(self, draft_probs: Probs, target_probs: Probs) -> Float[Tensor, "2 *batch outcomes"]:
        """``Q`` and ``P``."""
        return self.rule.outcomes.mass(torch.stack([draft_probs, target_probs]), target_probs)

    def _through(
        self, drafted: Float[Tensor, "*batch outcomes"], whole: Float[Tensor, "*batch outcomes"]
    ) -> tuple[Float[Tensor, "*batch outcomes"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch outcomes"]]:
        """``sum_j open_j min(1, P_j/Q)``, ``open_count`` and ``P_count``."""
        left, keep, still_open = whole, torch.zeros_like(whole), torch.ones_like(whole[..., :1])
        for _ in range(self.count):
            keep = keep + still_open * (left / torch.where(drafted > 0, drafted, 1)).clamp(max=1)
            still_open = still_open * (1 - left.minimum(drafted).sum(-1, keepdim=True)).clamp(min=0)
            left = _rest(left, drafted)
        return keep, still_open, left


def _rest(left: Float[Tensor, "*batch outcomes"], drafted: Float[Tensor, "*batch outcomes"]) -> Tensor:
    """``(left - drafted)+``, normalised: what remains after a rejection."""
    excess = (left - drafted).clamp(min=0)
    return excess / excess.sum(-1, keepdim=True).clamp(min=_SMALLEST)
