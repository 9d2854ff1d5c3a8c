"""KL divergence from the target to the draft, the usual loss for distilling drafts (DistillSpec, 2310.08461)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pcg.training.losses.alpha import divergence
from pcg.types import Probs


@dataclass(frozen=True)
class KL:
    """``mean_i sum_x p_i(x) log(p_i(x) / q_i(x))``, p the target, q the draft; nats, lower is better."""

    def __call__(self, draft_log_probs: Probs, target_probs: Probs) -> Float[Tensor, ""]:
        return divergence(draft_log_probs, target_probs).mean()
