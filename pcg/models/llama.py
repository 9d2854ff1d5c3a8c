"""Llama for decoding: a static cache with a length per row, few operations a layer, no modelling framework.

Reads Hugging Face Llama folders and gives the logits of transformers' ``LlamaForCausalLM``. A pass appends a
fixed number of tokens to every row at that row's own length and attends only to what is filled, so that rows
that accept less are simply shorter and rolling back is setting lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, resolve_folder
from pcg.models.footprint import footprint
from pcg.models.linear import Linear, linear
from pcg.types import Utterance


@runtime_checkable
class TextSide(Protocol):
    """How a model writes text and speech: its own ids, and the prompt that leads up to speech."""

    speech_ids: Int[Tensor, "vocab"]  # the model's own id of each entry of the speech vocabulary

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]: ...


@dataclass(frozen=True)
class LlamaConfig:
    """What a pass needs of config.json."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int
    eps: float
    tied: bool
    rope: dict[str, Any]

    @staticmethod
    def read(config: dict[str, Any], folder: Path) -> LlamaConfig:
        """Raises ValueError for a model that is not a plain Llama."""
        expected = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
        for key, value in expected.items():
            if config.get(key, None if key == "model_type" else value) != value:
                raise ValueError(
                    f"{folder}: config.json has {key}={config.get(key)!r}; this Llama reads {value!r} only"
                )
        heads = config["num_attention_heads"]
        # transformers 5 writes rope_parameters, before it rope_theta and rope_scaling
        rope = config.get("rope_parameters") or {
            "rope_theta": config.get("rope_theta", 10_000.0),
            **(config.get("rope_scaling") or {}),
        }
        return LlamaConfig(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            hidden=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab=config["vocab_size"],
            positions=config["max_position_embeddings"],
            eps=config["rms_norm_eps"],
            tied=config.get("tie_word_embeddings", False),
            rope=rope,
        )


def rope_table(config: LlamaConfig, device: torch.device) -> Complex[Tensor, "positions half"]:
    """cos + i sin of every position and frequency; with Llama 3's stretching of long wavelengths where asked for.

    Source: RoPE, arXiv 2104.09864; the stretching as published with Llama 3.1. Float32 throughout, as in transformers.
    """
    rope, half = config.rope, torch.arange(0, config.head_dim, 2, dtype=torch.int64).float()
    frequencies = 1.0 / rope["rope_theta"] ** (half / config.head_dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "llama3":
        factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: stretched by factor; 1: left alone
        frequencies = frequencies / factor * (1 - share) + frequencies * share
    elif kind != "default":
        raise ValueError(f"rope_type={kind!r} in config.json: this Llama knows default and llama3")
    angles = torch.outer(torch.arange(config.positions, dtype=torch.float32), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(device)


class LlamaCache:
    """Keys and values of every layer and row; what lies beyond a row's length is stale and never attended to."""

    lengths: Int[Tensor, "batch"]  # on the CPU: shapes depend on it, so a pass need not wait for the device

    def __init__(
        self, config: LlamaConfig, batch: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # zeros, because a masked NaN is still NaN
        shape = (config.layers, batch, 2 * config.kv_heads, capacity, config.head_dim)  # keys' heads, then values'
        self.states: Float[Tensor, "layers batch heads capacity dim"] = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int64)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.states = self.states[:, rows.to(self.states.device)]
        self.lengths = self.lengths[rows.cpu()]


@dataclass(frozen=True)
class _Span:
    """Where one pass writes and what it may see, the same for every layer."""

    start: int
    end: int  # positions read
    positions: Int[Tensor, "batch new"] | None  # None where all rows write from ``start`` on
    rope: Complex[Tensor, "*batch_1 new half"]
    mask: Float[Tensor, "rows 1 new end"] | None = None
    causal: bool = False

    def write(
        self, states: Float[Tensor, "batch heads capacity dim"], fresh: Float[Tensor, "batch heads new dim"]
    ) -> None:
        if self.positions is None:
            states.narrow(2, self.start, fresh.shape[2]).copy_(fresh)
        else:
            rows = torch.arange(len(states), device=states.device).unsqueeze(1)
            states[rows, :, self.positions] = fresh.transpose(1, 2)


@dataclass(frozen=True)
class _Layer:
    attention_norm: Float[Tensor, "width"]
    qkv: Linear
    out: Linear
    mlp_norm: Float[Tensor, "width"]
    gate_up: Linear
    down: Linear


def _interleaved(weight: Float[Tensor, "outputs width"], head_dim: int) -> Float[Tensor, "outputs width"]:
    """Rows of each head reordered so that the two halves RoPE turns together lie side by side, as complex numbers do.

    Queries and keys are reordered alike, so their products are unchanged.
    """
    return weight.view(-1, 2, head_dim // 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


class Llama:
    """The transformer: token ids in, hidden states and logits out."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, head_rows: Int[Tensor, "rows"] | None
    ) -> None:
        """``head_rows``: the token ids to give logits for; None for all."""
        self.config = LlamaConfig.read(checkpoint.config, checkpoint.folder)
        self.dtype, self.device = dtype, device
        c = self.config
        table = checkpoint.tensor("model.embed_tokens.weight", (c.vocab, c.width))
        self.table = table.to(device, dtype)
        self.head = linear(self._output_rows(checkpoint, table, head_rows), dtype, device)
        self.layers = [self._layer(checkpoint, f"model.layers.{i}.") for i in range(c.layers)]
        self.norm = self._norm(checkpoint, "model.norm.weight")
        self.rope = rope_table(c, device)
        # ||x|| / sqrt(width) is the root mean square; the norm weights carry the sqrt(width)
        self._floor = torch.tensor(math.sqrt(c.width * c.eps), device=device)

    def _output_rows(self, checkpoint: Checkpoint, table: Tensor, rows: Tensor | None) -> Float[Tensor, "rows width"]:
        c = self.config
        weight = table if c.tied else checkpoint.tensor("lm_head.weight", (c.vocab, c.width))
        return weight if rows is None else weight[rows]

    def _norm(self, checkpoint: Checkpoint, name: str) -> Float[Tensor, "width"]:
        weight = checkpoint.tensor(name, (self.config.width,)).to(self.device, self.dtype)
        return weight * math.sqrt(self.config.width) if self.dtype == torch.float32 else weight

    def _layer(self, checkpoint: Checkpoint, prefix: str) -> _Layer:
        c = self.config
        q_size, kv_size = c.heads * c.head_dim, c.kv_heads * c.head_dim

        def read(name: str, *shape: int) -> Tensor:
            return checkpoint.tensor(f"{prefix}{name}.weight", shape)

        queries = _interleaved(read("self_attn.q_proj", q_size, c.width), c.head_dim)
        keys = _interleaved(read("self_attn.k_proj", kv_size, c.width), c.head_dim)
        values = read("self_attn.v_proj", kv_size, c.width)
        gate_up = torch.cat([read("mlp.gate_proj", c.hidden, c.width), read("mlp.up_proj", c.hidden, c.width)])
        return _Layer(
            attention_norm=self._norm(checkpoint, f"{prefix}input_layernorm.weight"),
            qkv=linear(torch.cat([queries, keys, values]), self.dtype, self.device),
            out=linear(read("self_attn.o_proj", c.width, q_size), self.dtype, self.device),
            mlp_norm=self._norm(checkpoint, f"{prefix}post_attention_layernorm.weight"),
            gate_up=linear(gate_up, self.dtype, self.device),
            down=linear(read("mlp.down_proj", c.width, c.hidden), self.dtype, self.device),
        )

    def forward(self, ids: Int[Tensor, "batch new"], cache: LlamaCache) -> Float[Tensor, "batch new width"]:
        """Append ``ids`` to each row at its own length; the states after each, before the head."""
        span = self._span(cache, ids.shape[1])
        x = F.embedding(ids, self.table)
        for layer, states in zip(self.layers, cache.states, strict=True):
            x = x + self._attend(layer, self._rms(x, layer.attention_norm), states, span)
            gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).split(self.config.hidden, -1)
            x = x + layer.down(F.silu(gate) * up)
        cache.lengths = cache.lengths + ids.shape[1]
        return self._rms(x, self.norm)

    def logits(self, hidden: Float[Tensor, "batch new width"]) -> Float[Tensor, "batch new rows"]:
        return self.head(hidden).float()

    def _rms(
        self, x: Float[Tensor, "batch new width"], weight: Float[Tensor, "width"]
    ) -> Float[Tensor, "batch new width"]:
        if self.dtype != torch.float32:
            return F.rms_norm(x, (self.config.width,), weight, self.config.eps)
        # half the CPU time of F.rms_norm, which is six kernels there
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x / torch.hypot(size, self._floor) * weight

    def _attend(
        self, layer: _Layer, x: Float[Tensor, "batch new width"], states: Float[Tensor, "..."], span: _Span
    ) -> Float[Tensor, "batch new width"]:
        c, (batch, new, _) = self.config, x.shape
        # RoPE in float32 and in place: turns queries and keys, leaves values
        qkv = layer.qkv(x).float().view(batch, new, -1, c.head_dim // 2, 2).transpose(1, 2)
        torch.view_as_complex(qkv.narrow(1, 0, c.heads + c.kv_heads)).mul_(span.rope)
        queries, fresh = qkv.flatten(3).to(self.dtype).split([c.heads, 2 * c.kv_heads], 1)
        span.write(states, fresh)
        keys, values = states.narrow(2, 0, span.end).split(c.kv_heads, 1)
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=span.mask, is_causal=span.causal, enable_gqa=c.heads != c.kv_heads
        )
        return layer.out(mixed.transpose(1, 2).reshape(batch, new, -1))

    def _span(self, cache: LlamaCache, new: int) -> _Span:
        lengths = cache.lengths.tolist()
        start, end = min(lengths), max(lengths) + new
        if end > cache.states.shape[3]:
            raise ValueError(f"cache of {cache.states.shape[3]} positions is full: {end} asked for")
        if start + new == end and (new == 1 or start == 0):  # all rows equally long, nothing to mask
            return _Span(start, end, None, self.rope[start:end], causal=new > 1)
        positions = (cache.lengths.unsqueeze(1) + torch.arange(new)).to(self.device)
        later = torch.arange(end, device=self.device) > positions[:, None, :, None]
        mask = torch.zeros(later.shape, dtype=self.dtype, device=self.device).masked_fill_(later, -torch.inf)
        if start + new == end:
            return _Span(start, end, None, self.rope[start:end], mask)
        return _Span(start, end, positions, self.rope[positions].unsqueeze(1), mask)


class LlamaLM:
    """A Llama that speaks: the ``TokenLM`` of ``pcg.interfaces``.

    Attributes:
        folder: where its weights lie.

    Args:
        path: a Hugging Face Llama folder, or ``bundled:NAME`` for one inside the package.
        text: how this model writes text and speech.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: a torch device.
        head: ``speech`` computes logits of the speech vocabulary only; ``full`` computes all, then takes those.
    """

    footprint = staticmethod(footprint)  # what it will take, before it is there

    def __init__(
        self, path: str, text: TextSide, dtype: Dtype, device: str | torch.device, head: Literal["speech", "full"]
    ) -> None:
        if head not in ("speech", "full"):
            raise ValueError(f"head={head!r}: speech or full")
        self.device, self.text = torch.device(device), text
        self.folder = resolve_folder(path)
        self._checkpoint = Checkpoint(self.folder)
        last = int(text.speech_ids.max())
        if last >= self._checkpoint.config["vocab_size"]:
            raise ValueError(
                f"{path}: speech token id {last} is beyond its {self._checkpoint.config['vocab_size']} rows"
            )
        rows = text.speech_ids if head == "speech" else None
        self.llama = Llama(self._checkpoint, dtype_of(dtype), self.device, rows)
        self.vocab_size = len(text.speech_ids)
        self.end = self.vocab_size - 1
        self._speech_ids = text.speech_ids.to(self.device)
        self._full_head = head == "full"

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, prompt_tokens).to(self.device)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Int[Tensor, "_"]], capacity: int) -> LlamaCache:
        """Raises ValueError where ``capacity`` is more positions than the model knows."""
        config = self.llama.config
        if capacity > config.positions:
            raise ValueError(f"{capacity} positions asked for, the model knows {config.positions}: lower max_tokens")
        cache = LlamaCache(config, len(prompts), capacity, self.llama.dtype, self.device)
        # padded at the end: what the pads write lies beyond each row's length
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if ids.shape[1]:
            self.llama.forward(ids, cache)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: LlamaCache) -> Float[Tensor, "batch new vocab"]:
        logits = self.llama.logits(self.llama.forward(tokens, cache))
        return logits[..., self._speech_ids] if self._full_head else logits

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._speech_ids.take(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Raises ValueError for a source other than ``input`` and ``output``."""
        if source not in ("input", "output"):
            raise ValueError(f"embedding source {source!r}: input or output")
        c = self.llama.config
        name = "lm_head.weight" if source == "output" and not c.tied else "model.embed_tokens.weight"
        rows = self._checkpoint.tensor(name, (c.vocab, c.width))[self.text.speech_ids]
        return rows.float().to(self.device)
