"""The logarithm of acceptance itself (LK losses, arXiv 2602.23881, L_alpha)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pcg.training.losses.alpha import LEAST, acceptance
from pcg.types import Probs


@dataclass(frozen=True)
class LK:
    """``mean_i -log alpha_i``. Its gradient is that of the total variation over alpha, so hopeless positions count."""

    def __call__(self, draft_log_probs: Probs, target_probs: Probs) -> Float[Tensor, ""]:
        return -acceptance(draft_log_probs, target_probs).clamp(min=LEAST).log().mean()
