"""Calls of ``passes.c``: whole passes of a model (products, attention, norms) on one thread of a CPU.

It computes in float32 or, where the processor multiplies it, bfloat16, and returns float32. Sums are made in one order
whatever the number of tokens: a pass of five tokens equals five passes of one to the last bit, which torch does not
promise. One call replaces some twenty operations a layer, and reads weights, keys and values once.

Without a compiler, or with several threads, torch multiplies (``pcg.models.linear``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from pcg.compiled import library
from pcg.models.decoder import LlamaConfig
from pcg.models.tree import Tree

_KINDS = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
_PAIRS, _QUADS = 3, 4
_ZERO = 128  # as which 0 is stored in an 8-bit input


class _Matrix(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "scales", "offsets")),
        ("inputs", ctypes.c_int32), ("outputs", ctypes.c_int32), ("kind", ctypes.c_int32),
    )  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "head_norms")),
        *((name, _Matrix) for name in ("qkv", "out", "gate_up", "down")),
    )


class _Sizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "hidden", "heads", "kv_heads", "dim")),
        ("eps", ctypes.c_float), ("bfloat16", ctypes.c_int32),
    )  # fmt: skip


class _Pass(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("rows", "fresh")),
        *((name, ctypes.c_void_p) for name in ("lengths", "dropped", "depths", "sees", "rope", "states")),
        *((name, ctypes.c_int64) for name in ("layer_step", "row_step", "head_step")),
        ("reads", ctypes.c_void_p), ("read_count", ctypes.c_int64), ("hidden", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("hidden_row_step", "hidden_read_step")),
    )  # fmt: skip


def can_pass(head_dim: int, dtype: torch.dtype) -> bool:
    """Whether the library is built and supports heads of this size in this dtype."""
    if library() is None:
        return False
    if dtype == torch.bfloat16:
        return bool(library().can_pair()) and head_dim % (2 * library().lanes()) == 0
    return dtype == torch.float32 and head_dim % library().lanes() == 0


class _Draft(ctypes.Structure):
    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("layer", "state_norm", "norm", "fuse", "head", "places", "table", "ids")
        ),
        *((name, ctypes.c_int32) for name in ("table_bfloat16", "normed_residual", "vocab")),
    )


class _Hidden(ctypes.Structure):
    _fields_ = (
        ("states", ctypes.c_void_p), ("row_step", ctypes.c_int64), ("read_step", ctypes.c_int64),
        ("bfloat16", ctypes.c_int32),
    )  # fmt: skip


class Product:
    """x @ weight.T + bias by ``passes.c``; a ``pcg.models.linear.Linear``.

    Args:
        weight: as stored.
        dtype: of the computation, float32 or bfloat16.
        int8: multiply in 8-bit integers, with a scale for each output's weights and one for each token's inputs.
            Inputs must be a multiple of 4.
    """

    def __init__(
        self,
        weight: Float[Tensor, "outputs inputs"],
        bias: Float[Tensor, "outputs"] | None,
        dtype: torch.dtype = torch.float32,
        int8: bool = False,
    ) -> None:
        outputs, inputs = weight.shape
        scales = offsets = None
        kind, together = _KINDS[weight.dtype], 1
        if int8:
            if inputs % 4:
                raise ValueError(f"{inputs} inputs: 8-bit products need a multiple of 4; set draft.int8=false")
            scales = weight.float().abs().amax(1) / 127
            weight = (weight.float() / scales.clamp(min=1e-30).unsqueeze(1)).round().to(torch.int8)
            offsets = weight.sum(1, dtype=torch.int32) * _ZERO
            kind, together = _QUADS, 4
        elif dtype == torch.bfloat16:
            weight, kind, together = weight.bfloat16(), _PAIRS, 2
        group = library().group()
        padded = torch.cat([weight, weight.new_zeros(-outputs % group, inputs)])
        self._weight = padded.view(-1, group, inputs // together, together).transpose(1, 2).contiguous()
        self._bias = None if bias is None else bias.float().contiguous()
        self._scales, self._offsets = scales, offsets
        addresses = map(_address, (self._weight, self._bias, scales, offsets))
        self.matrix = _Matrix(*addresses, inputs, outputs, kind)

    def as_int8(self) -> Product:
        """A copy that multiplies in 8-bit integers."""
        weight = self._weight.transpose(1, 2).flatten(2).flatten(0, 1)[: self.matrix.outputs]
        return Product(weight, self._bias, int8=True)

    def __call__(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        x = x.float().contiguous()
        outputs = x.new_empty(*x.shape[:-1], self.matrix.outputs)
        rows = x.numel() // self.matrix.inputs
        _check(library().product(ctypes.byref(self.matrix), _at(x), rows, _at(outputs), 0))
        return outputs

    def of_states(
        self, hidden: Float[Tensor, "batch reads capacity width"], lengths: Int[Tensor, "batch"], new: int
    ) -> Float[Tensor, "batch new outputs"]:
        """The product with the target's states of the positions before each of ``new`` tokens, zeros before position 0.

        Args:
            hidden: the states, which are concatenated over ``reads``.
            lengths: position of the first of the tokens in each row.
        """
        outputs = torch.empty(len(hidden), new, self.matrix.outputs)
        steps = ctypes.c_int64(hidden.stride(0)), ctypes.c_int64(hidden.stride(1))
        sizes = hidden.dtype == torch.bfloat16, hidden.shape[-1], len(hidden), new
        _check(
            library().fused_states(
                ctypes.byref(self.matrix), _at(hidden), *steps, *sizes, _at(lengths.contiguous()), _at(outputs)
            )
        )
        return outputs


class Passes:
    """The layers of one model in the structures of ``passes.c``.

    Args:
        layers: each a ``pcg.models.layer_ops.Layer`` with products of this file.
        rope: cos and sin of every position.
    """

    def __init__(
        self, config: LlamaConfig, layers: Sequence[Any], rope: Float[Tensor, "positions half 2"], dtype: torch.dtype
    ) -> None:
        c = config
        self._rope = rope.contiguous()
        self._sizes = _Sizes(c.width, c.hidden, c.heads, c.kv_heads, c.head_dim, c.eps, dtype == torch.bfloat16)
        self._layers = (_Layer * len(layers))(*map(_layer, layers))
        self._held = list(layers)  # whose weights the addresses are of

    def through(
        self, x: Float[Tensor, "batch new width"], norm: Float[Tensor, "width"], cache: Any, tree: Tree | None
    ) -> Float[Tensor, "batch new width"]:
        """A pass through all layers and the last norm; writes keys, values and hidden states into ``cache``."""
        x = x.float().contiguous()  # a copy, or what an embedding has just made: it is changed in place
        pass_, _held = self._pass(x, cache, tree)
        pointers = ctypes.byref(self._sizes), self._layers, len(self._layers), _at(norm)
        _check(library().layers(*pointers, ctypes.byref(pass_), _at(x)))
        return x

    def reading(
        self,
        x: Float[Tensor, "batch new width"],
        embedded: Float[Tensor, "batch new width"],
        state_norm: Float[Tensor, "width"],
        normed_residual: bool,
        cache: Any,
    ) -> Float[Tensor, "batch new width"]:
        """A pass through the one layer of a draft that reads states (``pcg.models.eagle``); ``x`` is not changed.

        ``normed_residual``: whether attention's output is added to the normed states.
        """
        x = x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        embedded = embedded.float().contiguous()
        pass_, _held = self._pass(x, cache, None)
        pointers = ctypes.byref(self._sizes), self._layers, _at(state_norm), normed_residual, ctypes.byref(pass_)
        _check(library().reading_layer(*pointers, _at(embedded), _at(x)))
        return x

    def rms(
        self, x: Float[Tensor, "batch new width"], weight: Float[Tensor, "width"]
    ) -> Float[Tensor, "batch new width"]:
        x, width = x.float().contiguous(), self._sizes.width
        normed = torch.empty_like(x)
        library().rms(
            ctypes.byref(self._sizes), _at(x), x.numel() // width, _at(weight), _at(normed), ctypes.c_int64(width)
        )
        return normed

    def drafting(
        self,
        fuse: Product,
        head: Product,
        places: Int[Tensor, "outputs"] | None,
        table: Float[Tensor, "rows width"],
        ids: Int[Tensor, "vocab"],
        state_norm: Float[Tensor, "width"],
        norm: Float[Tensor, "width"],
        normed_residual: bool,
    ) -> Drafting:
        """Drafts whole blocks with the one layer of a draft that reads states.

        Args:
            fuse: maps the target's states, side by side, to the draft's width.
            head: computes logits of the tokens at ``places``, all where None.
            table: embeddings by the model's ``ids``, float32 or bfloat16.
        """
        held = (places, table, ids, state_norm, norm, fuse, head)
        products = (ctypes.addressof(each.matrix) for each in (fuse, head))
        draft = _Draft(
            ctypes.addressof(self._layers), _address(state_norm), _address(norm), *products,
            *map(_address, (places, table, ids)), table.dtype == torch.bfloat16, normed_residual, len(ids),
        )  # fmt: skip
        return Drafting(self, draft, held)

    def _pass(self, x: Shaped[Tensor, "batch new *width"], cache: Any, tree: Tree | None) -> tuple[_Pass, Any]:
        """The structure of one pass, and the tensors that it points to, which must outlive the call."""
        rows, fresh = x.shape[:2]
        entries, dropped, states, hidden = cache.entries, cache.dropped, cache.states, cache.hidden
        depths, sees = _chain(fresh) if tree is None else (tree.depths.int(), tree.sees.to(torch.uint8).contiguous())
        reads = _numbers(cache.reads)
        pass_ = _Pass(
            rows, fresh, *map(_address, (entries, dropped, depths, sees, self._rope, states)), *states.stride()[:3],
            _address(reads), len(cache.reads), _address(hidden), *hidden.stride()[:2],
        )  # fmt: skip
        return pass_, (entries, dropped, depths, sees, reads)


class Drafting:
    """Drafts each block in one call; made by ``Passes.drafting``."""

    def __init__(self, passes: Passes, draft: _Draft, held: Any) -> None:
        self._passes, self._draft, self._held = passes, draft, held

    def block(
        self,
        latest: Int[Tensor, "batch unread"],
        cache: Any,
        hidden: Float[Tensor, "batch reads capacity width"],
        temperature: float,
        uniform: Float[Tensor, "batch gamma"],
    ) -> tuple[Int[Tensor, "batch gamma"], Float[Tensor, "batch gamma vocab"], Float[Tensor, "batch 1 width"]]:
        """Tokens, the distribution that each was drawn from, and the draft's last state.

        The cache gets entries of ``latest`` and of gamma - 1 drafts; the caller adds them to its lengths.

        Args:
            latest: tokens that the draft has not read yet, by the model's ids.
            hidden: the target's states, up to the token before the last of ``latest``.
        """
        latest, uniform, (rows, gamma) = latest.contiguous(), uniform.contiguous(), uniform.shape
        tokens = torch.empty(rows, gamma, dtype=torch.int64)
        probs = torch.empty(rows, gamma, self._draft.vocab)
        own = torch.empty(rows, 1, self._passes._sizes.width)
        pass_, _held = self._passes._pass(latest, cache, None)
        states = _Hidden(hidden.data_ptr(), *hidden.stride()[:2], hidden.dtype == torch.bfloat16)
        structures = map(ctypes.byref, (self._passes._sizes, self._draft, pass_, states))
        scale, made = ctypes.c_float(temperature), map(_at, (tokens, probs, own))
        _check(library().chain(*structures, _at(latest), scale, _at(uniform), gamma, *made))
        return tokens, probs, own


@lru_cache(maxsize=64)
def _chain(fresh: int) -> tuple[Int[Tensor, "new"], UInt8[Tensor, "new new"]]:
    """Depths and mask of tokens in sequence."""
    return torch.arange(fresh, dtype=torch.int32), torch.ones(fresh, fresh, dtype=torch.uint8).tril()


@lru_cache(maxsize=64)
def _numbers(values: tuple[int, ...]) -> Int[Tensor, "count"]:
    return torch.tensor(values, dtype=torch.int32)


def _layer(layer: Any) -> _Layer:
    products = [product.matrix for product in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    return _Layer(*map(_address, (layer.attention_norm, layer.mlp_norm, layer.head_norms)), *products)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _check(had_memory: int) -> None:
    if not had_memory:
        raise MemoryError("out of memory in a pass")
