"""Block verification of (group, token) pairs: exact for groups as PCG is, and longer blocks are kept.

Sources: arXiv 2511.13732 for the groups, arXiv 2403.10444 for the block test. The combination is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance import thinning
from pcg.acceptance.block import joint_ratio, longest
from pcg.acceptance.checks import Probs, Rates, check_block
from pcg.acceptance.pcg import PCG, GroupResidual
from pcg.acceptance.steps import at_end
from pcg.constraints import SHARE_ABOVE_0, checked
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw, may_look
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class PCGBlock:
    """``Block`` on pairs ``(k, x)``, drafted with ``q(x) w[k,x]``, towards the target below.

    Extended target: ``P_c(k) q(x) w[k,x]/Q_c(k)`` where ``Q_c(k) > 0``, else ``p(x) w[k,x]``. Its group law is ``P_c``,
    and its ratio to the draft is ``P_c(k)/Q_c(k)`` for any ``x``, so every sum over pairs becomes one over groups:
    ``c_i = min(1, c_{i-1} P_c(k_i)/Q_c(k_i))`` and ``Z_i = sum_k (c_i P_c(k) - Q_c(k))+``. Block verification's
    theorems then hold for pairs: each group has law ``P_c`` given what was emitted before, and in expectation at least
    as many tokens are kept as by PCG, the token-wise rule on the same pairs. The residual must come from the same
    extended target, so the draft picks the token inside a recovered group (as in PCG with ``residual: draft``). The
    bonus token has no draft; it is drawn from ``p``, whose group law is ``P_c`` as well.

    Neither ``Z_i`` nor the residual needs dense ``P_c``. Prefix i passes with probability ``h_i = Z_i/(Z_i + 1 -
    c_i)``, which a race decides: repeat {draw ``t ~ p``, ``k ~ w[., t]``; the prefix passes with probability ``(c_i -
    Q_c(k)/P_c(k))+``, ``Z_i`` in total, and fails with ``1 - c_i``}, ``1/(Z_i + 1 - c_i)`` draws in expectation. As in
    PCG's thinning, which also gives the residual, the number of draws is bounded; a race that is open then is decided
    by the dense form, which has the same law.

    Args:
        floor: as PCG's; an implausible token is a group of its own.
    """

    groups: GroupTable
    floor: Annotated[float, SHARE_ABOVE_0] | None = None
    pcg: PCG = field(init=False, repr=False, compare=False)  # the token-wise rule on the same extended target

    def __post_init__(self) -> None:
        object.__setattr__(self, "pcg", PCG(self.groups, "draft", self.floor))

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions, self.groups)
        gamma, pcg = draft_tokens.shape[1], self.pcg
        drawn = self.groups.draw_group(draft_tokens, randomness.draws(positions, Purpose.GROUP, gamma))
        draft_mass, target_mass = pcg.outcomes.masses_of(draft_tokens, drawn, draft_probs, target_probs[:, :gamma])
        joint = joint_ratio(target_mass / draft_mass)
        whole = randomness.draws(positions, Purpose.ACCEPT, gamma)[:, -1] < joint[:, -1]
        token = draw(target_probs[:, gamma], randomness.uniform(positions + gamma, Purpose.BONUS))
        if may_look(whole) and whole.all():
            return Verdict(torch.full_like(positions, gamma), token)
        shorter = self._race(draft_probs, target_probs, joint, positions, randomness)
        accepted = longest(torch.cat([shorter, whole.unsqueeze(1)], 1))
        share = joint.gather(1, accepted.unsqueeze(1))
        at = positions + accepted
        residual = pcg.left(*at_end(accepted, draft_probs, target_probs), at, randomness, share)
        return Verdict(accepted, torch.where(whole, token, thinning.recover(residual, at, randomness)))

    def _race(
        self,
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        joint: Float[Tensor, "batch gamma+1"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Bool[Tensor, "batch gamma-1"]:
        """Whether each prefix that is shorter than the block passes."""
        gamma, had = draft_probs.shape[1], 0
        decided = (joint[:, 1:gamma] == 1).flatten()  # Z/(Z + 0), or its limit
        passes = decided.clone()
        while had < thinning.TRIALS[-1]:
            at = _left(decided)
            if not len(at):
                return passes.view(len(joint), gamma - 1)
            residual = _of_prefixes(self.pcg, at, draft_probs, target_probs, joint)
            trials, each = thinning.next_stage(had, decided), 3 * (gamma - 1)
            numbers = randomness.draws(positions, Purpose.ACCEPT, gamma + trials * each)[:, gamma + had * each :]
            numbers = numbers.reshape(len(joint), trials - had, gamma - 1, 3).transpose(1, 2).flatten(0, 1)[at]
            had = trials
            _, _, won = residual.trials(numbers)
            over = won | (numbers[..., 2] >= residual.share)
            first = over.byte().argmax(1, keepdim=True)
            passes[at] = torch.where(decided[at], passes[at], won.gather(1, first).squeeze(1))
            decided[at] |= over.any(1)
        at = _left(decided)
        residual = _of_prefixes(self.pcg, at, draft_probs, target_probs, joint)
        left, missing = residual.total(~decided.all()), 1 - joint[:, 1:gamma].flatten()[at]
        uniform = randomness.draws(positions, Purpose.ACCEPT, gamma)[:, : gamma - 1].flatten()[at]
        passes[at] = torch.where(decided[at], passes[at], uniform < left / (left + missing))
        return passes.view(len(joint), gamma - 1)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        """The extended target's law of the token: PCG's with ``residual: draft``."""
        return self.pcg.law(draft_probs, target_probs)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """For a block of one token, the same as PCG's; longer blocks keep at least as large a share."""
        return self.pcg.expected_acceptance(draft_probs, target_probs)


def _left(decided: Bool[Tensor, "prefixes"]) -> Int[Tensor, "left"]:
    """The prefixes whose race is open; all of them where values may not be read (``may_look``)."""
    return (~decided).nonzero().squeeze(1) if may_look(decided) else torch.arange(len(decided), device=decided.device)


def _of_prefixes(
    pcg: PCG,
    at: Int[Tensor, "left"],
    draft_probs: Float[Tensor, "batch gamma vocab"],
    target_probs: Float[Tensor, "batch gamma+1 vocab"],
    joint: Float[Tensor, "batch gamma+1"],
) -> GroupResidual:
    """The residual after each prefix."""
    shorter = draft_probs.shape[1] - 1
    row, place = at // shorter, at % shorter + 1
    share = joint[row, place].unsqueeze(1)
    return GroupResidual(pcg.outcomes, draft_probs[row, place], target_probs[row, place], share)
