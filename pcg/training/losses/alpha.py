"""Acceptance and divergence at each position, which the losses share."""

from __future__ import annotations

import torch

from pcg.groups.table import GroupTable
from pcg.types import Probs, Rates

LEAST = 1e-5  # lower bound of alpha in a logarithm


def acceptance(draft_log_probs: Probs, target_probs: Probs) -> Rates:
    """``alpha = sum_x min(p(x), q(x))``, with which exact speculative decoding keeps the draft's token."""
    return torch.minimum(draft_log_probs.exp(), target_probs).sum(-1)


def coarse_acceptance(draft_log_probs: Probs, target_probs: Probs, groups: GroupTable) -> Rates:
    """``sum_k min(P_c(k), Q_c(k))``, the probability with which PCG keeps the draft's token (DESIGN section 3)."""
    return torch.minimum(groups.coarse(draft_log_probs.exp()), groups.coarse(target_probs)).sum(-1)


def divergence(draft_log_probs: Probs, target_probs: Probs) -> Rates:
    """``KL(p || q)`` in nats; tokens with p = 0 add nothing, whatever q is."""
    return (torch.special.xlogy(target_probs, target_probs) - target_probs * draft_log_probs).nan_to_num(0.0).sum(-1)
