"""Layers of the Llama family, and the span of positions that a pass of them writes and reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.models.cache import LlamaCache
from pcg.models.decoder import LlamaConfig
from pcg.models.linear import Layout, Linear, linear
from pcg.models.native import Passes
from pcg.models.rope import rope_table
from pcg.models.tree import Tree


@runtime_checkable
class Tensors(Protocol):
    """A source of weights, such as a ``Checkpoint``."""

    def tensor(self, name: str, shape: tuple[int, ...] | None) -> Tensor: ...


Memory = tuple[Tensor, Tensor, Tensor]  # of one layer in one pass: where it writes, the keys and values that it sees


@dataclass(frozen=True)
class Span:
    """The positions that one pass writes and attends to, the same for every layer."""

    start: int
    end: int  # positions read
    positions: Int[Tensor, "batch new"] | None  # None where all rows write from ``start`` on
    rope: Float[Tensor, "*batch new 1 half 2"]  # cos and sin
    mask: Float[Tensor, "rows 1 new end"] | None = None
    causal: bool = False

    def memories(self, states: Float[Tensor, "layers batch heads capacity dim"], kv_heads: int) -> Iterator[Memory]:
        """The memory of each layer, as views of ``states``."""
        keys, values = states.narrow(3, 0, self.end).split(kv_heads, 2)
        return zip(self.room(states).unbind(), keys.unbind(), values.unbind(), strict=True)

    def room(self, states: Float[Tensor, "*first capacity dim"]) -> Float[Tensor, "*first room dim"]:
        """The part that ``write`` writes to; all of it where rows write at different positions."""
        return states if self.positions is not None else states.narrow(-2, self.start, self.end - self.start)

    def write(self, room: Float[Tensor, "batch heads room dim"], fresh: Float[Tensor, "batch heads new dim"]) -> None:
        if self.positions is None:
            room.copy_(fresh)
        else:
            rows = torch.arange(len(room), device=room.device).unsqueeze(1)
            room[rows, :, self.positions] = fresh.transpose(1, 2)


@dataclass(frozen=True)
class Layer:
    attention_norm: Float[Tensor, "width"]
    qkv: Linear
    out: Linear
    mlp_norm: Float[Tensor, "width"]
    gate_up: Linear
    down: Linear
    head_norms: Float[Tensor, "heads half 2"] | None = None  # of queries, then of keys


def interleaved(weight: Float[Tensor, "outputs width"], head_dim: int) -> Float[Tensor, "outputs width"]:
    """Rows of each head reordered so that the two halves RoPE turns together lie side by side, as complex numbers do.

    Queries and keys are reordered alike, so their products are unchanged.
    """
    return weight.view(-1, 2, head_dim // 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


class LayerOps:
    """What all layers of one model share: sizes, rotary angles, and the computation of norms, attention and MLP."""

    def __init__(self, config: LlamaConfig, dtype: torch.dtype, device: torch.device, layout: Layout) -> None:
        """``layout``: of the weights (``pcg.models.layout``)."""
        self.config, self.dtype, self.device, self.layout = config, dtype, device, layout
        self.rope = rope_table(config.rope, device)
        # ||x|| / sqrt(width) is the root mean square; the norm weights carry the sqrt(width)
        self._fused_norm = norm_is_fused(device)
        self._floor = torch.tensor(math.sqrt(config.width * config.eps), device=device)

    def cache(self, batch: int, capacity: int, reads: tuple[int, ...] = ()) -> LlamaCache:
        """Raises as ``check_reads``."""
        self.check_reads(reads)
        return LlamaCache(self.config, batch, capacity, self.dtype, self.device, reads)

    def check_reads(self, reads: tuple[int, ...]) -> None:
        """Raises ValueError for hidden states that the model does not have."""
        missing = [i for i in reads if not 0 <= i <= self.config.layers]
        if missing:
            raise ValueError(f"hidden state {missing[0]} asked for: 0 to {self.config.layers}")

    def linear(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, "outputs"] | None = None) -> Linear:
        return linear(weight, self.dtype, self.device, bias, self.layout)

    def passes(self, layers: Sequence[Layer]) -> Passes | None:
        """These layers as one call of ``passes.c``; None in other layouts."""
        native = self.layout in ("native", "int8")
        return Passes(self.config, layers, self.rope, self.dtype) if native else None

    def read_norm(self, checkpoint: Tensors, name: str) -> Float[Tensor, "width"]:
        weight = checkpoint.tensor(name, (self.config.width,)).to(self.device, self.dtype)
        return weight if self._fused_norm else weight.float() * math.sqrt(self.config.width)

    def read_layer(self, checkpoint: Tensors, prefix: str, inputs: int | None = None) -> Layer:
        """``inputs``: width of attention's input where it is not the model's."""
        c = self.config
        inputs = inputs or c.width
        q_size, kv_size = c.heads * c.head_dim, c.kv_heads * c.head_dim

        def read(name: str, *shape: int) -> Tensor:
            return checkpoint.tensor(f"{prefix}{name}.weight", shape)

        queries = interleaved(read("self_attn.q_proj", q_size, inputs), c.head_dim)
        keys = interleaved(read("self_attn.k_proj", kv_size, inputs), c.head_dim)
        values = read("self_attn.v_proj", kv_size, inputs)
        bias = self._read_bias(checkpoint, f"{prefix}self_attn.") if c.biased else None
        gate_up = torch.cat([read("mlp.gate_proj", c.hidden, c.width), read("mlp.up_proj", c.hidden, c.width)])
        return Layer(
            attention_norm=self.read_norm(checkpoint, f"{prefix}input_layernorm.weight"),
            qkv=self.linear(torch.cat([queries, keys, values]), bias),
            out=self.linear(read("self_attn.o_proj", c.width, q_size)),
            mlp_norm=self.read_norm(checkpoint, f"{prefix}post_attention_layernorm.weight"),
            gate_up=self.linear(gate_up),
            down=self.linear(read("mlp.down_proj", c.width, c.hidden)),
            head_norms=self._read_head_norms(checkpoint, f"{prefix}self_attn.") if c.head_norms else None,
        )

    def _read_bias(self, checkpoint: Tensors, prefix: str) -> Float[Tensor, "outputs"]:
        c, sizes = self.config, {"q": self.config.heads, "k": self.config.kv_heads, "v": self.config.kv_heads}
        parts = {
            name: checkpoint.tensor(f"{prefix}{name}_proj.bias", (count * c.head_dim,)).unsqueeze(1)
            for name, count in sizes.items()
        }
        turned = [interleaved(parts[name], c.head_dim) for name in "qk"]
        return torch.cat([*turned, parts["v"]]).squeeze(1)

    def _read_head_norms(self, checkpoint: Tensors, prefix: str) -> Float[Tensor, "heads half 2"]:
        c = self.config
        queries, keys = (
            interleaved(checkpoint.tensor(f"{prefix}{name}_norm.weight", (c.head_dim,)).unsqueeze(1), c.head_dim)
            for name in "qk"
        )
        rows = torch.stack([queries] * c.heads + [keys] * c.kv_heads)
        return rows.view(-1, c.head_dim // 2, 2).to(self.device, torch.float32)

    def rms(
        self, x: Float[Tensor, "batch new width"], weight: Float[Tensor, "width"]
    ) -> Float[Tensor, "batch new width"]:
        if self._fused_norm:
            return F.rms_norm(x, (self.config.width,), weight, self.config.eps)
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        return (x / torch.hypot(size, self._floor) * weight).to(self.dtype)

    def attend(
        self, layer: Layer, x: Float[Tensor, "batch new inputs"], memory: Memory, span: Span
    ) -> Float[Tensor, "batch new width"]:
        c, (batch, new, _) = self.config, x.shape
        # RoPE in float32 and in place: turns queries and keys, leaves values
        qkv = layer.qkv(x).float().view(batch, new, -1, c.head_dim // 2, 2)
        turned = qkv.narrow(2, 0, c.heads + c.kv_heads)
        if layer.head_norms is not None:
            size = turned.square().mean((-2, -1), keepdim=True).add_(c.eps).rsqrt_()
            turned.mul_(size).mul_(layer.head_norms)
        if torch.compiler.is_compiling():  # the compiler fuses this and has no complex numbers
            (cos, sin), (real, imaginary) = span.rope.unbind(-1), turned.unbind(-1)
            turned.copy_(torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -1))
        else:  # one operation instead of eight
            torch.view_as_complex(turned).mul_(torch.view_as_complex(span.rope))
        queries, fresh = qkv.flatten(3).to(self.dtype).transpose(1, 2).split([c.heads, 2 * c.kv_heads], 1)
        room, keys, values = memory
        span.write(room, fresh)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=span.mask, is_causal=span.causal, enable_gqa=c.heads != c.kv_heads
        )
        return layer.out(mixed.transpose(1, 2).reshape(batch, new, -1))

    def feed(self, layer: Layer, x: Float[Tensor, "batch new width"]) -> Float[Tensor, "batch new width"]:
        gate, up = layer.gate_up(self.rms(x, layer.mlp_norm)).split(self.config.hidden, -1)
        return layer.down(F.silu(gate) * up)

    def through(
        self, layers: Sequence[Layer], x: Float[Tensor, "batch new width"], span: Span, memories: Iterable[Memory]
    ) -> Iterator[Float[Tensor, "batch new width"]]:
        """Yields the hidden states after each layer of a pass. ``memories``: one for each layer."""
        for layer, memory in zip(layers, memories, strict=True):
            x = x + self.attend(layer, self.rms(x, layer.attention_norm), memory, span)
            x = x + self.feed(layer, x)
            yield x

    def span(self, cache: LlamaCache, new: int) -> Span:
        start, end = cache.room(new)
        if cache.has_dropped:
            entries = (cache.entries.unsqueeze(1) + torch.arange(new)).to(self.device)
            rope = self.rope[entries + cache.dropped.unsqueeze(1).to(self.device)].unsqueeze(2)
            return Span(0, end, entries, rope, self._until(entries, end))
        if start + new == end and (new == 1 or start == 0):  # all rows equally long, nothing to mask
            return Span(start, end, None, self.rope[start:end, None], causal=new > 1)
        positions = (cache.lengths.unsqueeze(1) + torch.arange(new)).to(self.device)
        if start + new == end:
            return Span(start, end, None, self.rope[start:end, None], self._until(positions, end))
        return self.ragged_span(positions, end)

    def ragged_span(self, positions: Int[Tensor, "batch new"], end: int) -> Span:
        """A span whose rows write at ``positions``, on which no shape depends; ``end`` bounds what is attended to."""
        return Span(0, end, positions, self.rope[positions].unsqueeze(2), self._until(positions, end))

    def tree_span(self, cache: LlamaCache, tree: Tree) -> Span:
        """A span for a tree: entries are written one after another, rotary angles follow the depths."""
        new = len(tree.depths)
        start, end = cache.room(new)
        lengths = cache.lengths.to(self.device).unsqueeze(1)
        index = torch.arange(end, device=self.device) - lengths  # within the pass; below 0 for earlier entries
        among = tree.sees[:, index.clamp(0, new - 1)] & (index < new)
        sees = (among | (index < 0)).transpose(0, 1).unsqueeze(1)
        rope = self.rope[lengths + tree.depths].unsqueeze(2)
        entries = None if start + new == end else lengths + torch.arange(new, device=self.device)
        return Span(start, end, entries, rope, self._mask(~sees))

    def _until(self, positions: Int[Tensor, "batch new"], end: int) -> Float[Tensor, "batch 1 new end"]:
        """The causal mask for tokens at these positions."""
        return self._mask(torch.arange(end, device=self.device) > positions[:, None, :, None])

    def _mask(self, hidden: Bool[Tensor, "rows 1 new end"]) -> Float[Tensor, "rows 1 new end"]:
        """A mask to add to attention scores: minus infinity where ``hidden``."""
        return torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(hidden, -torch.inf)


def norm_is_fused(device: torch.device) -> bool:
    """Whether ``F.rms_norm`` is one kernel; on a CPU it is six, at twice the time of ``LayerOps.rms``."""
    return device.type != "cpu"
