"""x @ weight.T in several layouts of the weight, which give the same numbers; ``pcg.models.layout`` chooses one."""

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
Layout = Literal["native", "int8", "packed", "reordered", "plain"]


def linear(
    weight: Float[Tensor, "outputs inputs"],
    dtype: torch.dtype,
    device: torch.device,
    bias: Float[Tensor, "outputs"] | None = None,
    layout: Layout = "plain",
) -> Linear:
    """x @ weight.T + bias, with the weight as stored in a checkpoint, computed in ``dtype`` on ``device``.

    Args:
        layout: of the weight in memory, which decides what multiplies; one of ``layouts``.
    """
    bias = None if bias is None else bias.to(device=device, dtype=dtype)
    if layout in ("native", "int8"):
        return native.Product(weight, bias, dtype, layout == "int8")
    if layout == "packed":
        return _packed(weight, bias)
    if layout == "reordered":
        return _reordered(weight, bias)
    return partial(F.linear, weight=weight.to(device=device, dtype=dtype), bias=bias)


def layouts(head_dim: int, stored: torch.dtype, dtype: torch.dtype, device: torch.device, threads: int) -> list[Layout]:
    """The layouts that this machine supports for computing in ``dtype`` with weights that are ``stored`` so."""
    supported: list[Layout] = ["plain"]
    if device.type != "cpu":
        return supported
    if dtype == torch.float32 and stored == torch.float16 and can_pack():
        supported.append("packed")
    if threads == 1 and native.can_pass(head_dim, dtype):
        supported.append("native")
    if dtype == torch.bfloat16 and can_reorder():
        supported.append("reordered")
    return supported


def is_plain(multiply: Linear) -> bool:
    """Whether it is ``F.linear``, which can be compiled, unlike the kernels of the other layouts."""
    return isinstance(multiply, partial) and multiply.func is F.linear


def can_pack() -> bool:
    """Whether this build of torch has FBGEMM's product of float32 activations with float16 weights."""
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(torch, "fbgemm_pack_gemm_matrix_fp16")


def _packed(weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"] | None) -> Linear:
    """Float16 weights times float32 activations, accumulated in float32, on one thread.

    Widening a float16 weight loses nothing, so this is the float32 product to within rounding. It reads half
    the memory, and its kernels are made for few rows: 3 to 5 times as fast as MKL's at 1 to 8 rows (AMD Zen 4).
    """
    with warnings.catch_warnings():  # torch will remove these functions; ``can_pack`` is then False
        warnings.filterwarnings("ignore", message="fbgemm_")
        packed = torch.fbgemm_pack_gemm_matrix_fp16(weight.float())
        multiply = partial(torch.fbgemm_linear_fp16_weight_fp32_activation, packed_weight=packed, bias=bias)
        multiply(torch.zeros(1, weight.shape[1]))  # its one warning is raised here
    return multiply


def can_reorder() -> bool:
    """Whether oneDNN is available and multiplies in bfloat16 on this processor (AVX512-BF16, AMX)."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _reordered(weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"] | None) -> Linear:
    """As ``F.linear`` in bfloat16, which takes a third longer for few rows: it reorders the weight at each call."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(torch.bfloat16), None)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")
