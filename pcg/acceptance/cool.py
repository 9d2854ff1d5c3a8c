"""COOL-SD: a ratio test that is most relaxed at the start of a block and less so along it.

Source: Li et al. 2026 (AAAI), arXiv 2601.09212: keep with ``min(1, w_i p/q)``, ``w_i = delta exp(-nu i - mu)``, nu .7;
formulas second-hand, its code is not public yet. Departures: ``i`` counts from 0, and ``mu`` is a factor in ``delta``.
For weights of at least 1 the residual is the paper's, which is exact's; for weights below 1 it is chosen so that the
law is the target's (see below), and only fewer tokens are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit_excess, leading, mixture, of_drafted, residual
from pcg.constraints import ABOVE_0, FROM_0, checked
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Cool:
    """Keep token i of a block, from 0, when ``u < w p(x)/q(x)``, ``w = delta exp(-nu i)``; recover from
    ``(p - min(q, w p))+``.

    For ``w >= 1`` that residual is ``(p - q)+``. For ``w < 1`` the kept mass is ``min(q, w p) <= p``, and the residual
    is the rest of ``p``.

    Law at place i: ``min(q, w p) + (1 - sum min(q, w p)) r`` with ``r`` the residual, normalised; ``p`` for ``w <= 1``.
    It depends on the place in a block, which the distributions at a position do not give. So there is no ``law`` and
    distortion is null, but there is ``law_at`` a place. ``expected_acceptance`` is that of the first place.

    Args:
        delta: weight of the first token.
        nu: how fast weights fall; 0 gives all the same weight.
    """

    delta: Annotated[float, ABOVE_0] = 4.0
    nu: Annotated[float, FROM_0] = 0.7

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
        draft, target = of_drafted(draft_probs, draft_tokens), of_drafted(target_probs[:, :gamma], draft_tokens)
        weights = self.weights(torch.arange(gamma + 1, device=positions.device))
        accepted = leading(numbers[:, :gamma, Purpose.ACCEPT] * draft < weights[:gamma] * target)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        kept = draft_end.minimum(weights.to(target_end.dtype)[accepted].unsqueeze(1) * target_end)
        return emit_excess(accepted, target_end, kept, numbers)

    def weights(self, places: Int[Tensor, "places"]) -> Float[Tensor, "places"]:
        return self.delta * torch.exp(-self.nu * places.double())

    def law_at(self, place: int, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        kept = self._kept(place, draft_probs, target_probs)
        return mixture(kept, torch.ones_like(kept), residual(kept, target_probs))

    def acceptance_at(self, place: int, draft_probs: Probs, target_probs: Probs) -> Rates:
        check_pair(draft_probs, target_probs)
        return self._kept(place, draft_probs, target_probs).sum(-1)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """For a block of one token; later tokens of longer blocks are kept less often."""
        return self.acceptance_at(0, draft_probs, target_probs)

    def _kept(self, place: int, draft_probs: Probs, target_probs: Probs) -> Probs:
        return draft_probs.minimum(self.weights(torch.tensor([place])).item() * target_probs)
