"""Total variation, for comparison: its gradient vanishes where draft and target share nothing (arXiv 2602.23881)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pcg.training.losses.alpha import acceptance
from pcg.types import Probs


@dataclass(frozen=True)
class TV:
    """``mean_i 1 - alpha_i``, in [0, 1]."""

    def __call__(self, draft_log_probs: Probs, target_probs: Probs) -> Float[Tensor, ""]:
        return 1 - acceptance(draft_log_probs, target_probs).mean()
