"""VADUSA's tolerance: a drafted token is kept if it is among several draws from the target.

Source: Li et al. 2024, arXiv 2410.21951. The paper's formula could not be read; this is our reading, second-hand, of
its tolerance mechanism ("inclusion of a tolerance mechanism during sampling"): with tolerance ``draws`` the target
samples that many tokens, and a draft that matches any of them is accepted. The paper drafts with Medusa heads
in a sparse tree; here a chain is sampled from the draft model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import leading
from pcg.constraints import checked, up_to
from pcg.sampling import Purpose, Randomness, draw, draw_several
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Vadusa:
    """Keep ``x`` when it is among ``draws`` independent draws from ``p``; recover with the first of these.

    Law: ``x`` is kept with probability ``1 - (1 - p(x))^n``. The recovered token is ``t`` when the first draw is
    ``t != x`` and none of the other n - 1 is ``x``: ``p(t) sum_{x != t} q(x) (1 - p(x))^(n-1)``. Together
    ``q(t) (1 - (1 - p(t))^n) + p(t) (S - q(t) (1 - p(t))^(n-1))`` with ``S = sum_x q(x) (1 - p(x))^(n-1)``.
    One draw gives the target's law and keeps ``sum p q``; more draws move the law towards the draft.
    """

    draws: Annotated[int, up_to(10_000)] = 3

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions)
        gamma = draft_tokens.shape[1]
        at = positions.unsqueeze(1) + torch.arange(gamma, device=positions.device)
        drawn = draw_several(target_probs[:, :gamma], randomness.draws(at, Purpose.TRIAL, self.draws))
        accepted = leading((drawn == draft_tokens.unsqueeze(2)).any(2))

        bonus = draw(target_probs[:, gamma], randomness.uniform(positions + gamma, Purpose.BONUS))
        tokens = torch.cat([drawn[:, :, 0], bonus.unsqueeze(1)], 1)  # for each position at which the block may end
        return Verdict(accepted, tokens.gather(1, accepted.unsqueeze(1)).squeeze(1))

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        others_miss = draft_probs * (1 - target_probs) ** (self.draws - 1)
        kept = draft_probs - others_miss * (1 - target_probs)
        return kept + target_probs * (others_miss.sum(-1, keepdim=True) - others_miss)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        check_pair(draft_probs, target_probs)
        return (draft_probs * (1 - (1 - target_probs) ** self.draws)).sum(-1)
