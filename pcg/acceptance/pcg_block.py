"""Block verification of (group, token) pairs: PCG's group exactness with block verification's longer blocks.

Sources: arXiv 2511.13732 for the groups, arXiv 2403.10444 for the block test. Putting them together is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.block import joint_ratio, keep_probability, longest
from pcg.acceptance.checks import check_block
from pcg.acceptance.pcg import PCG, extended_residual
from pcg.acceptance.steps import at_end, emit, uniforms
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@dataclass(frozen=True)
class PCGBlock:
    """``Block`` on pairs ``(k, x)``, drafted with ``q(x) w[k,x]``, towards the target below.

    Extended target: ``P_c(k) q(x) w[k,x]/Q_c(k)`` where ``Q_c(k) > 0``, else ``p(x) w[k,x]``. Its group law is ``P_c``,
    and its ratio to the draft is ``P_c(k)/Q_c(k)`` whatever ``x``, so every sum over pairs becomes one over groups:
    ``c_i = min(1, c_{i-1} P_c(k_i)/Q_c(k_i))`` and ``Z_i = sum_k (c_i P_c(k) - Q_c(k))+``. Block verification's
    theorems then hold on pairs: each group has law ``P_c`` given what was emitted before, and no fewer tokens are kept
    in expectation than by PCG, which is the token-wise rule on the same pairs. The residual has to come from the same
    extended target, so the draft picks the token inside a recovered group (as PCG with ``residual: draft``).
    The bonus token has no draft; it is drawn from ``p``, whose group law is ``P_c`` as well.

    Unlike PCG this needs the dense ``P_c`` and ``Q_c`` of every position: one pass over the table a round.
    """

    groups: GroupTable

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
        groups = self.groups.draw_group(draft_tokens, randomness.draws(positions, Purpose.GROUP, gamma))
        both = self.groups.coarse(torch.cat([draft_probs, target_probs], 1))
        draft_mass, target_mass = both[:, :gamma], both[:, gamma:]
        drawn = groups.long().unsqueeze(2)
        ratios = (target_mass[:, :gamma].gather(2, drawn) / draft_mass.gather(2, drawn)).squeeze(2)
        joint = joint_ratio(ratios)
        keep = keep_probability(draft_mass, target_mass, joint)
        accepted = longest(randomness.draws(positions, Purpose.ACCEPT, gamma) < keep)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        draft_mass, target_mass = at_end(accepted, draft_mass, target_mass)
        share = joint.gather(1, accepted.unsqueeze(1))
        residual = extended_residual(self.groups, draft_end, target_end, draft_mass, target_mass, share)
        weights = torch.where((accepted == gamma).unsqueeze(1), target_end, residual)
        numbers = uniforms(positions, gamma, randomness, Purpose.RECOVERED, Purpose.BONUS)
        return emit(accepted, weights, target_end, numbers)

    def law(
        self, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch vocab"]:
        """The extended target's law of the token: PCG's with ``residual: draft``."""
        return PCG(self.groups, "draft").law(draft_probs, target_probs)

    def expected_acceptance(
        self, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch"]:
        """Of a block of one token, as PCG's; longer blocks keep at least what this gives."""
        return PCG(self.groups).expected_acceptance(draft_probs, target_probs)
