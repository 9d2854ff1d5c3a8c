"""A mixture that moves from KL to total variation as the draft improves (LK losses, arXiv 2602.23881, L_lambda)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from pcg.constraints import FROM_0
from pcg.training.losses.alpha import acceptance, divergence
from pcg.types import Probs


@dataclass(frozen=True)
class LKHybrid:
    """``lambda KL + (1 - lambda)(1 - alpha)`` with ``lambda = exp(-eta alpha)``, alpha being the batch's mean.

    The trainer calls it once a depth, so lambda is of that depth; no gradient flows through it.

    Attributes:
        eta: 3 in the source.
    """

    eta: Annotated[float, FROM_0] = 3.0

    def __call__(self, draft_log_probs: Probs, target_probs: Probs) -> Float[Tensor, ""]:
        alpha = acceptance(draft_log_probs, target_probs).mean()
        share = (-self.eta * alpha.detach()).exp()
        return share * divergence(draft_log_probs, target_probs).mean() + (1 - share) * (1 - alpha)
