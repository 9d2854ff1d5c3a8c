"""Typical acceptance: keep what is likely enough under the target, given how sure the target is.

Source: Medusa, Cai et al. 2024, arXiv 2401.10774, section 2.3.1; the formula and its defaults as in the authors'
``evaluate_posterior`` (posterior_threshold .09, posterior_alpha .3 = sqrt of it), which was read.
Departures: Medusa drafts greedily, always keeps the first token, and takes the best of a tree; here a chain is
sampled from the draft and the first token is tested like the others. Their code adds 1e-5 inside the logarithm;
the entropy here is exact, in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit, leading, mixture, of_drafted, truncated
from pcg.constraints import FROM_0, checked
from pcg.sampling import Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Typical:
    """Keep ``x`` when ``p(x) > min(eps, delta exp(-H(p)))``; recover by a draw from ``p``.

    Law: the test depends only on ``x`` and ``p``, and the recovered token is an independent draw, so
    ``q(t) 1[t typical] + (1 - q(typical)) p(t)``.
    """

    eps: Annotated[float, FROM_0] = 0.09
    delta: Annotated[float, FROM_0] = 0.3

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
        numbers = randomness.block(positions, gamma + 1)
        target = of_drafted(target_probs[:, :gamma], draft_tokens)
        accepted = leading(target > self._threshold(target_probs[:, :gamma]))

        _, target_end = at_end(accepted, draft_probs, target_probs)
        return emit(accepted, target_end, target_end, numbers)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return mixture(draft_probs, self._typical(target_probs), target_probs)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """The draft's mass on typical tokens."""
        check_pair(draft_probs, target_probs)
        return (draft_probs * self._typical(target_probs)).sum(-1)

    def truncated(self, target_probs: Probs) -> Probs:
        """The target restricted to the kept tokens, with which 2607.26627 compares this rule's law."""
        return truncated(target_probs, self._typical(target_probs))

    def _typical(self, target_probs: Probs) -> Bool[Tensor, "*batch vocab"]:
        return target_probs > self._threshold(target_probs).unsqueeze(-1)

    def _threshold(self, target_probs: Probs) -> Rates:
        entropy = torch.special.entr(target_probs).sum(-1)
        return (self.delta * torch.exp(-entropy)).clamp(max=self.eps)
