"""Whole rows of the vocabulary on one thread of a CPU: ``sampling.c``."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.compiled import library


def can_take(rows: Float[Tensor, "*batch vocab"]) -> bool:
    """Whether the library is there and takes this tensor."""
    return (
        rows.is_cpu
        and rows.dtype == torch.float32
        and rows.is_contiguous()
        and not rows.requires_grad
        and torch.get_num_threads() == 1
        and library() is not None
    )


def softmax(logits: Float[Tensor, "*batch vocab"], temperature: float) -> Float[Tensor, "*batch vocab"]:
    """``softmax(logits / temperature)``."""
    probs, width = torch.empty_like(logits), logits.shape[-1]
    library().softmax(logits.data_ptr(), logits.numel() // width, width, temperature, probs.data_ptr())
    return probs


def are_distributions(probs: Float[Tensor, "*batch vocab"], tolerance: float) -> bool:
    """Whether in every row nothing is negative or NaN, and the sum is 1 but for ``tolerance``."""
    width = probs.shape[-1]
    return bool(library().are_distributions(probs.data_ptr(), probs.numel() // width, width, tolerance))


def draw(
    weights: Float[Tensor, "*batch vocab"],
    uniform: Float[Tensor, "*batch draws"],
    less: Float[Tensor, "*batch vocab"] | None = None,
) -> tuple[Int[Tensor, "*batch draws"], Float[Tensor, "*batch"]]:
    """As ``pcg.sampling.draw_several``, and the total of each row's weights.

    Args:
        less: is taken from the weights, down to 0; where it leaves nothing, it is not.
    """
    width, count, uniform = weights.shape[-1], uniform.shape[-1], uniform.contiguous()
    index = torch.empty(uniform.shape, dtype=torch.int64)
    totals = torch.empty(weights.shape[:-1], dtype=torch.float64)
    library().draw(
        weights.data_ptr(), None if less is None else less.data_ptr(), weights.numel() // width, width,
        uniform.data_ptr(), count, index.data_ptr(), totals.data_ptr(),
    )  # fmt: skip
    return index, totals
