"""Speculative cascades: exact speculative decoding towards a mixture that follows the draft where it is good enough.

Source: Narasimhan et al. 2025 (ICLR), arXiv 2405.19261. The paper's text could not be read here; its rules are taken
from two public descriptions of ports (MTPLX's pull request 485, mlx-serve's issue 419). The paper calls the threshold
alpha and the deferral r. Departure: temperature 0 is not treated apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.exact import Exact
from pcg.constraints import SHARE, checked, one_of
from pcg.sampling import Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Cascade:
    """Exact towards ``m = q (1 - r) + p sum(r q)``, where ``r(x)`` is 1 if x is deferred to the target, else 0.

    - ``by: token``: x is deferred when ``p(x) < (1 - threshold) max p``.
    - ``by: peak``: all tokens are when ``max q < max p - threshold``.
    - ``by: variation``: all tokens are when ``max q < max p - threshold TV(p, q)``.

    If all are deferred, ``m = p``; if none is, ``m = q`` and everything is kept. ``m`` sums to 1 as ``p`` does.
    Law: ``m``. Expected acceptance: ``sum min(m, q)``.

    Args:
        threshold: 0 defers most, 1 least; its meaning depends on ``by``.
    """

    by: Annotated[str, one_of("token", "peak", "variation")] = "token"
    threshold: Annotated[float, SHARE] = 0.5

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions)
        mixed = self._mixture(draft_probs, target_probs[:, :-1])
        towards = torch.cat([mixed, target_probs[:, -1:]], 1)
        return Exact().verify(draft_tokens, draft_probs, towards, positions, randomness)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return self._mixture(draft_probs, target_probs)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        check_pair(draft_probs, target_probs)
        return self._mixture(draft_probs, target_probs).minimum(draft_probs).sum(-1)

    def _mixture(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        deferred = self._deferred(draft_probs, target_probs)
        return draft_probs * ~deferred + target_probs * (draft_probs * deferred).sum(-1, keepdim=True)

    def _deferred(self, draft_probs: Probs, target_probs: Probs) -> Bool[Tensor, "*batch #vocab"]:
        best = target_probs.amax(-1, keepdim=True)
        if self.by == "token":
            return target_probs < (1 - self.threshold) * best
        scale = (target_probs - draft_probs).clamp(min=0).sum(-1, keepdim=True) if self.by == "variation" else 1.0
        return draft_probs.amax(-1, keepdim=True) < best - self.threshold * scale
