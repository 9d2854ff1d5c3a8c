"""Acceptance and divergence at each position, which the losses share."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.groups.table import GroupTable

LEAST = 1e-5  # lower bound of alpha in a logarithm


def acceptance(
    draft_log_probs: Float[Tensor, "positions vocab"], target_probs: Float[Tensor, "positions vocab"]
) -> Float[Tensor, "positions"]:
    """``alpha = sum_x min(p(x), q(x))``, with which exact speculative decoding keeps the draft's token."""
    return torch.minimum(draft_log_probs.exp(), target_probs).sum(-1)


def coarse_acceptance(
    draft_log_probs: Float[Tensor, "positions vocab"],
    target_probs: Float[Tensor, "positions vocab"],
    groups: GroupTable,
) -> Float[Tensor, "positions"]:
    """``sum_k min(P_c(k), Q_c(k))``, the probability with which PCG keeps the draft's token (DESIGN section 3)."""
    return torch.minimum(groups.coarse(draft_log_probs.exp()), groups.coarse(target_probs)).sum(-1)


def divergence(
    draft_log_probs: Float[Tensor, "positions vocab"], target_probs: Float[Tensor, "positions vocab"]
) -> Float[Tensor, "positions"]:
    """``KL(p || q)`` in nats; tokens with p = 0 add nothing, whatever q is."""
    return (torch.special.xlogy(target_probs, target_probs) - target_probs * draft_log_probs).nan_to_num(0.0).sum(-1)
