"""Grows a trained model to more layers and heads without changing its function (Net2Net, arXiv 1511.05641)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def grown(state: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Weights for a model with ``config`` that computes the same function as a model of fewer layers or heads.

    Layer i copies old layer ``i * old // new``; a second copy of a layer has zeros for its two output matrices, so that
    it adds nothing at first.
    """
    old, new = 1 + max(int(name.split(".")[2]) for name in state if ".layers." in name), config.num_hidden_layers
    sources = [i * old // new for i in range(new)]
    out = {name: value.float() for name, value in state.items() if ".layers." not in name}
    for i, source in enumerate(sources):
        prefix = f"model.layers.{source}."
        for name, value in state.items():
            if not name.startswith(prefix):
                continue
            part = name.removeprefix(prefix)
            value = _more_heads(part, value.float(), config)
            if source in sources[:i] and part in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                value = torch.zeros_like(value)
            out[f"model.layers.{i}.{part}"] = value
    return out


def _more_heads(part: str, weight: Tensor, config: Any) -> Tensor:
    """Repeats the heads of an attention matrix; a new query head is random, and its output matrix zero."""
    size: int = config.head_dim
    match part.split(".")[-2]:
        case "k_proj" | "v_proj":
            heads = weight.unflatten(0, (-1, size))
            return heads.repeat_interleave((config.num_key_value_heads or 1) // len(heads), 0).flatten(0, 1)
        case "q_proj":
            wider = torch.randn(config.num_attention_heads, size, weight.shape[1]) * weight.std()
            heads = weight.unflatten(0, (-1, size))
            wider[:: len(wider) // len(heads)] = heads
            return wider.flatten(0, 1)
        case "o_proj":
            wider = torch.zeros(weight.shape[0], config.num_attention_heads, size)
            heads = weight.unflatten(1, (-1, size))
            wider[:, :: wider.shape[1] // heads.shape[1]] = heads
            return wider.flatten(1)
    return weight
