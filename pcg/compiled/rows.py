"""Whole rows of the vocabulary on one thread of a CPU: ``sampling.c``."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.compiled import library


def can_take(*tensors: Float[Tensor, "..."]) -> bool:
    """Whether the library is there and takes these tensors; never in a compiled graph, which it would break."""
    return (
        not torch.compiler.is_compiling()
        and all(map(_is_plain, tensors))
        and torch.get_num_threads() == 1
        and library() is not None
    )


def _is_plain(rows: Float[Tensor, "..."]) -> bool:
    return rows.is_cpu and rows.dtype == torch.float32 and rows.is_contiguous() and not rows.requires_grad


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
    width, (*batch, count) = weights.shape[-1], uniform.shape
    if any(size != 1 for size in batch[:-1]):  # rows do not lie at one distance
        uniform = uniform.contiguous()
    steps = uniform.stride()[-2:] if batch else (0, uniform.stride(-1))
    index = torch.empty(uniform.shape, dtype=torch.int64)
    totals = torch.empty(weights.shape[:-1], dtype=torch.float64)
    library().draw(
        weights.data_ptr(), None if less is None else less.data_ptr(), weights.numel() // width, width,
        uniform.data_ptr(), *steps, count, index.data_ptr(), totals.data_ptr(),
    )  # fmt: skip
    return index, totals


def draw_among(
    ids: Int[Tensor, "batch n width"],
    more: Float[Tensor, "batch #n vocab"],
    less: Float[Tensor, "batch #n vocab"],
    uniform: Float[Tensor, "batch n"],
) -> tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """As ``pcg.sampling.draw_among``."""
    uniform = uniform if len(uniform) == 1 else uniform.contiguous()
    chosen = torch.empty(uniform.shape, dtype=torch.int64)
    return chosen, _among(ids, more, less, uniform.data_ptr(), uniform.stride(1), chosen.data_ptr())


def total_among(
    ids: Int[Tensor, "batch n width"], more: Float[Tensor, "batch #n vocab"], less: Float[Tensor, "batch #n vocab"]
) -> Float[Tensor, "batch n"]:
    """As ``pcg.sampling.total_among``."""
    return _among(ids, more, less, None, 0, None)


def _among(
    ids: Tensor, more: Tensor, less: Tensor, numbers: int | None, step: int, chosen: int | None
) -> Float[Tensor, "batch n"]:
    (batch, n, width), ids = ids.shape, ids.contiguous()
    totals = torch.empty(batch, n, dtype=torch.float64)
    library().among(
        ids.data_ptr(), batch * n, width, more.data_ptr(), less.data_ptr(), more.shape[-1], n // more.shape[1],
        numbers, step, chosen, totals.data_ptr(),
    )  # fmt: skip
    return totals
