"""The learning rate over a training, and which optimiser trains which parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def optimizers(
    matrices: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (AdamW alone was far slower), AdamW for tables and norms."""
    muon = torch.optim.Muon(list(matrices), rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(list(rest), rate, betas=(0.9, 0.98), weight_decay=0.0)]


def schedule(step: int, steps: int) -> float:
    """Warm up over 100 steps, hold, fall linearly to 2 % over the second half."""
    return min(1.0, (step + 1) / 100, max(0.02, 2 * (1 - step / steps)))
