"""The unprincipled group test, as a control: does a draw from the target share a group with the draft's token?

From no paper: it is the obvious first way to accept within groups. Its law is neither the target's nor exact for groups
(docs/rules.md); PCG's is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import leading
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw
from pcg.types import Verdict


@dataclass(frozen=True)
class Bucket:
    """Draw ``y ~ p``; keep ``x`` when some group holds both; else emit ``y``.

    Law: write ``N(t)`` for the tokens that share a group with ``t``. A kept ``t`` needs ``y in N(t)``, a recovered one
    ``x not in N(t)``, and x and y are independent: ``q(t) p(N(t)) + p(t) (1 - q(N(t)))``.
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
        at = positions.unsqueeze(1) + torch.arange(gamma + 1, device=positions.device)
        purpose = torch.full_like(at, Purpose.RECOVERED)
        purpose[:, gamma] = Purpose.BONUS
        drawn = draw(target_probs, randomness.uniform(at, purpose))  # for each position at which the block may end
        accepted = leading(self._share(draft_tokens, drawn[:, :gamma]))
        return Verdict(accepted, drawn.gather(1, accepted.unsqueeze(1)).squeeze(1))

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs, self.groups)
        near_draft, near_target = self.groups.sharing_mass(torch.stack([draft_probs, target_probs]))
        return draft_probs * near_target + target_probs * (1 - near_draft).clamp(min=0)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """``sum_x q(x) p(N(x))``, which is below exact's if groups are small."""
        check_pair(draft_probs, target_probs, self.groups)
        return (draft_probs * self.groups.sharing_mass(target_probs)).sum(-1)

    def _share(
        self, first: Int[Tensor, "batch gamma"], second: Int[Tensor, "batch gamma"]
    ) -> Bool[Tensor, "batch gamma"]:
        """Whether some group holds both tokens, by binary search of the groups of one in those of the other."""
        wanted, no_padding = self.groups.holders_of(first)
        others, inside = self.groups.holders_of(second)
        others = others.masked_fill(~inside, len(self.groups))  # padding sorts last
        index = torch.searchsorted(others, wanted).clamp_(max=others.shape[-1] - 1)
        return ((others.gather(-1, index) == wanted) & no_padding).any(-1)
