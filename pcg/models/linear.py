"""x @ weight.T, by the quickest kernel here that gives the same numbers. docs/bench.md has the times of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pcg.models import native

Linear = Callable[[Float[Tensor, "... inputs"]], Float[Tensor, "... outputs"]]
Layout = Literal["native", "packed", "reordered", "plain"]


def linear(
    weight: Float[Tensor, "outputs inputs"],
    dtype: torch.dtype,
    device: torch.device,
    bias: Float[Tensor, "outputs"] | None = None,
    layout: Layout = "plain",
) -> Linear:
    """The map with ``weight`` and ``bias`` as stored in a checkpoint, computed in ``dtype`` on ``device``.

    Args:
        layout: how the weight lies in memory, and so who multiplies; ``layout_for`` names the quickest.
    """
    bias = None if bias is None else bias.to(device=device, dtype=dtype)
    if layout == "native":
        return native.Product(weight, bias, dtype)
    if layout == "packed":
        return _packed(weight, bias)
    if layout == "reordered":
        return _reordered(weight, bias)
    return partial(F.linear, weight=weight.to(device=device, dtype=dtype), bias=bias)


def layout_for(head_dim: int, stored: torch.dtype, dtype: torch.dtype, device: torch.device) -> Layout:
    """The quickest layout for a model that computes in ``dtype`` with weights that are ``stored`` so.

    ``native`` runs on one thread and was the quickest on every machine and model that was measured (docs/bench.md).
    ``packed`` takes 1 / 2.7 of the time of torch's own product, on one thread too, so from four threads on torch's is
    chosen.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        return "plain"
    if threads == 1 and native.can_pass(head_dim, dtype):
        return "native"
    if threads <= 3 and (dtype, stored) == (torch.float32, torch.float16) and can_pack():
        return "packed"
    return "reordered" if dtype == torch.bfloat16 and can_reorder() else "plain"


def is_plain(multiply: Linear) -> bool:
    """Whether it is ``F.linear``, and not a product of a CPU's own, which no compiler sees through."""
    return isinstance(multiply, partial) and multiply.func is F.linear


def can_pack() -> bool:
    """Whether this build of torch has FBGEMM's product of float32 activations with float16 weights."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch, "fbgemm_pack_gemm_matrix_fp16")


def _packed(weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"] | None) -> Linear:
    """Float16 weights times float32 activations, accumulated in float32, on one thread.

    Widening a float16 weight loses nothing, so this is the float32 product to within rounding. It reads half
    the memory, and its kernels are made for few rows: 3 to 5 times as fast as MKL's at 1 to 8 rows (AMD Zen 4).
    """
    with warnings.catch_warnings():  # torch announces that these functions will go; ``can_pack`` then says no
        warnings.filterwarnings("ignore", message="fbgemm_")
        packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.float())
        multiply = partial(torch.fbgemm_linear_fp16_weight_fp32_activation, packed_weight=packed, bias=bias)
        multiply(torch.zeros(1, weight.shape[1]))  # its one warning is raised here
    return multiply


def can_reorder() -> bool:
    """Whether oneDNN is there, and multiplies in bfloat16 on this processor (AVX512-BF16, AMX)."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _reordered(weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"] | None) -> Linear:
    """As ``F.linear`` in bfloat16, which takes a third longer for few rows: it lays out the weight at every call."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16), None)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")
