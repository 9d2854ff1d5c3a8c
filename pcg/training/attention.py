"""Causal attention for training on CPUs, as an attention function of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def products(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention as two plain products: 1.5 times as fast as the fused kernel on a CPU without AMX."""
    batch, heads, length, size = query.shape
    mask = torch.full((length, length), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    flat = [
        part.repeat_interleave(heads // part.shape[1], 1).reshape(batch * heads, length, size)
        for part in (query, key, value)
    ]
    weights = torch.baddbmm(mask.expand(batch * heads, -1, -1), flat[0], flat[1].transpose(1, 2), alpha=scaling)
    return (weights.softmax(-1) @ flat[2]).view(query.shape).transpose(1, 2), None


def prefer_products(model: nn.Module) -> None:
    """Makes a model use ``products`` where there is no GPU; on a GPU the fused kernels are faster."""
    from transformers import AttentionInterface

    if not torch.cuda.is_available():
        AttentionInterface.register("products", products)
        model.set_attn_implementation("products")  # type: ignore[operator]
