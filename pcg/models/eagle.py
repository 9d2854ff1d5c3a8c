"""A draft that reads the target's hidden states: one decoder layer over the target's own tables (EAGLE-3).

Source: EAGLE-3, arXiv 2503.01840 (EAGLE: 2401.15077). The input at position i is the token's embedding and the target's
states of position i - 1; where the target has not computed these yet, the draft's own last state replaces them.

The folder holds tensors as published EAGLE-3 heads name them (``fc``, ``midlayer.*``, ``norm``, some also
``embed_tokens``, ``lm_head`` with ``d2t``), or as vllm-project/speculators does (``layers.0.*``). Without embeddings or
a head of its own, the draft uses the target's. Settings of config.json that are not supported are
refused by name.

Departures: there is an entry for the prompt's first token, whose previous state is zero; drafts are chains, not trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.constraints import at_least
from pcg.history import History
from pcg.interfaces import Drafted, Readable
from pcg.models.budget import CHUNK, kept_entries
from pcg.models.cache import LlamaCache, check_room
from pcg.models.chain import chain
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, read_json, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.eagle_folder import LAYER, SPECULATORS_LAYER, check_target, draft_ids, states_read, unnested
from pcg.models.footprint import Footprint
from pcg.models.layer_ops import LayerOps, Memory, Span
from pcg.models.layout import choose
from pcg.models.linear import is_plain
from pcg.models.native import Drafting, Product
from pcg.sampling import Sampling
from pcg.types import Utterance

READABLE = torch.float32, torch.bfloat16  # states that ``pcg.models.native`` reads


class EagleCache(LlamaCache):
    """The draft's own keys and values, the target's cache, and the draft's last state of each row."""

    def __init__(self, ops: LayerOps, batch: int, capacity: int, target: Any) -> None:
        super().__init__(ops.config, batch, capacity, ops.dtype, ops.device)
        self.target = target
        self.own: Float[Tensor, "batch 1 width"] = self.states.new_zeros(batch, 1, ops.config.width)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        super().keep(rows)
        self.own = self.own[rows.to(self.own.device)]


class EagleLM:
    """A ``TokenLM`` that drafts for the one target it was trained on.

    Args:
        path: folder of config.json (a Llama's sizes; ``reads``: the states it was trained on; ``target_fingerprint``)
            and model.safetensors.
        target: the target, from the runner.
        dtype: of the target.
        budget: entries of a prompt that its cache keeps after prefill (``pcg.models.budget``); None for all.
        int8: multiply in 8-bit integers where the CPU has them in ``passes.c``, for which the target's head is copied.

    Raises:
        ValueError: the folder belongs to another target, or the target's hidden states cannot be read.
    """

    def __init__(
        self, path: str, target: Any, dtype: Dtype, device: str | torch.device,
        budget: Annotated[int, at_least(2 * CHUNK)] | None = None, int8: bool = False,
    ) -> None:  # fmt: skip
        if not isinstance(target, Readable):
            raise ValueError(
                f"draft {path}: needs the target's hidden states, which a {type(target).__name__} does not give"
            )
        checkpoint = Checkpoint(resolve_folder(path))
        checkpoint.config = unnested(checkpoint.config)
        self.device, self.text = torch.device(device), getattr(target, "text", None)
        self.vocab_size, self.end = target.vocab_size, target.end
        self.config = c = LlamaConfig.read(checkpoint.config, checkpoint.folder)
        check_target(checkpoint, c, target, path)
        self.reads = states_read(checkpoint.config, target.layers, path)
        width = c.width
        fuse = checkpoint.tensor("fc.weight", (width, len(self.reads) * width))
        layout = choose(c, fuse.dtype, dtype_of(dtype), self.device, int8)
        self.budget = budget
        self._target, self.ops = target, LayerOps(c, dtype_of(dtype), self.device, layout)
        self._fuse = self.ops.linear(fuse)
        layer = LAYER if f"{LAYER}hidden_norm.weight" in checkpoint else SPECULATORS_LAYER
        self._layer = self.ops.read_layer(checkpoint, layer, inputs=2 * width)
        self._state_norm = self.ops.read_norm(checkpoint, f"{layer}hidden_norm.weight")
        self._norm = self.ops.read_norm(checkpoint, "norm.weight")
        self._normed_residual = bool(checkpoint.config.get("norm_before_residual"))
        self._table = _own_table(checkpoint, c, self.ops)
        self._head, self._head_tokens = _own_head(checkpoint, c, target, self.ops)
        self._passes = self.ops.passes([self._layer])
        self._drafting = self._whole_blocks()
        checkpoint.refuse_unread()

    @property
    def is_plain(self) -> bool:
        """Whether its products are torch's own, which can be compiled."""
        return is_plain(self._layer.qkv) and bool(getattr(self._target, "is_plain", False))

    @property
    def layout(self) -> str:
        """The memory layout of its weights (``pcg.models.layout``)."""
        return self.ops.layout

    @staticmethod
    def footprint(path: str, dtype: str, speech_rows: int) -> Footprint:
        """Sizes of a draft that uses the target's head, which it reads and does not store."""
        config = unnested(read_json(resolve_folder(path) / "config.json"))
        sizes = LlamaConfig.read(config, resolve_folder(path))
        width, queries, keys = sizes.width, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        body = width * (len(config.get("reads") or (0, 0, 0)) * width + 2 * (queries + 2 * keys) + queries)
        body += width * (3 * sizes.hidden + 4)
        size, head = dtype_of(dtype).itemsize, speech_rows * width
        return Footprint(body, size * body, size * (body + head), body + head, size * 2 * keys, published=False)

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self._target.prompt(utterance, prompt_tokens)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> EagleCache:
        """Raises ValueError where the target's cache does not hold the states that this draft reads."""
        self.check_states(target)
        check_room(prompts, capacity, self.config.positions)
        cache = EagleCache(self.ops, len(prompts), capacity, target)
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if ids.shape[1]:
            self._forward(ids, self._target_states(cache, ids.shape[1]), cache)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        if self.budget is not None:
            keys = zip(cache.states[0, :, : self.config.kv_heads], cache.lengths.tolist(), strict=True)
            cache.select([kept_entries(row[:, :length], self.budget) for row, length in keys])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: EagleCache) -> Float[Tensor, "batch new vocab"]:
        new = tokens.shape[1]
        has_read = self.target_has_read(cache.lengths, new, cache.target)
        return self.head(self._forward(tokens, self._target_states(cache, new) if has_read else cache.own, cache))

    @torch.inference_mode()
    def propose(
        self,
        latest: Int[Tensor, "batch unread"],
        cache: EagleCache,
        uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling,
        history: History | None,
    ) -> Drafted:
        """A drafted block; one call of ``passes.c`` where the layout is native and sampling has only a temperature."""
        hidden = cache.target.hidden
        if self._drafting is None or not sampling.temperature_alone or hidden.dtype not in READABLE:
            return chain(lambda ids: self.step(ids, cache)[:, -1], self.token_ids, latest, uniform, sampling, history)
        read = latest.shape[1] + uniform.shape[1] - 1
        if not self.target_has_read(cache.lengths, latest.shape[1], cache.target):
            raise ValueError("the target must have read every token before the block")
        cache.room(read)
        tokens, probs, cache.own = self._drafting.block(latest, cache, hidden, sampling.temperature, uniform)
        cache.lengths = cache.lengths + read
        return tokens, probs, None

    def _whole_blocks(self) -> Drafting | None:
        """The call that drafts whole blocks; None where a table or head is not in a layout that it supports."""
        head = self._head or _target_head(self._target)
        table = self._table if self._table is not None else getattr(getattr(self._target, "llama", None), "table", None)
        if self._passes is None or not isinstance(self._fuse, Product) or not isinstance(head, Product):
            return None
        if table is None or table.dtype not in READABLE:
            return None
        ids = self.token_ids(torch.arange(self.vocab_size))
        norms = self._state_norm, self._norm
        return self._passes.drafting(self._fuse, head, self._head_tokens, table, ids, *norms, self._normed_residual)

    def check_states(self, target: Any) -> None:
        """Raises ValueError where the target's cache does not hold the states that this draft reads."""
        if target is None or target.reads[: len(self.reads)] != self.reads:  # a rule's come after a draft's
            raise ValueError(
                f"this draft reads the target's states {self.reads}: prefill the target with reads={self.reads}"
            )

    def target_has_read(self, lengths: Int[Tensor, "batch"], new: int, target: Any) -> bool:
        """Whether the target has computed the states that ``new`` tokens from ``lengths`` on read; needs no device.

        Raises:
            ValueError: it has not, and there are several tokens.
        """
        lengths_and_reached = zip(lengths.tolist(), target.lengths.tolist(), strict=True)
        has_read = all(length + new - 1 <= reached for length, reached in lengths_and_reached)
        if not has_read and new > 1:
            raise ValueError("a draft that reads the target takes one token a step where it uses its own state")
        return has_read

    def states(
        self, hidden: Float[Tensor, "batch reads capacity width"], before: Int[Tensor, "batch new"]
    ) -> Float[Tensor, "batch new width"]:
        """The layer's input made of the target's states at these positions, zero for positions below 0."""
        rows = torch.arange(len(hidden), device=self.device).unsqueeze(1)
        states = hidden[rows, : len(self.reads), before.clamp(min=0)] * (before >= 0)[..., None, None]
        return self._fuse(states.flatten(2).to(self.ops.dtype))

    def through(
        self, ids: Int[Tensor, "batch new"], x: Float[Tensor, "batch new width"], span: Span, memory: Memory
    ) -> Float[Tensor, "batch new width"]:
        """The layer's states, which replace the target's at positions that the target has not computed."""
        ops, layer = self.ops, self._layer
        embedded = self._embed(ids)
        normed = ops.rms(x, self._state_norm)
        read = torch.cat([ops.rms(embedded, layer.attention_norm), normed], -1)
        x = (normed if self._normed_residual else x) + ops.attend(layer, read, memory, span)
        return x + ops.feed(layer, x)

    def head(self, x: Float[Tensor, "batch new width"]) -> Float[Tensor, "batch new vocab"]:
        hidden = self.ops.rms(x, self._norm) if self._passes is None else self._passes.rms(x, self._norm)
        if self._head is None:
            return self._target.head(hidden)
        logits = self._head(hidden).float()
        if self._head_tokens is None:
            return logits
        return logits.new_full((*logits.shape[:-1], self.vocab_size), -torch.inf).index_copy_(
            -1, self._head_tokens, logits
        )

    def _embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new width"]:
        if self._table is not None:
            return F.embedding(ids, self._table)
        return self._target.embed(ids).to(self.ops.dtype)

    def _target_states(self, cache: EagleCache, new: int) -> Float[Tensor, "batch new width"]:
        if isinstance(self._fuse, Product) and cache.target.hidden.dtype in READABLE:
            return self._fuse.of_states(cache.target.hidden, cache.lengths, new)
        before = (cache.lengths.unsqueeze(1) + torch.arange(new) - 1).to(self.device)
        return self.states(cache.target.hidden, before)

    def _forward(
        self, ids: Int[Tensor, "batch new"], x: Float[Tensor, "batch new width"], cache: EagleCache
    ) -> Float[Tensor, "batch new width"]:
        if self._passes is not None:
            cache.room(ids.shape[1])
            x = self._passes.reading(x, self._embed(ids), self._state_norm, self._normed_residual, cache)
        else:
            span = self.ops.span(cache, ids.shape[1])
            [memory] = span.memories(cache.states, self.config.kv_heads)
            x = self.through(ids, x, span, memory)
        cache.lengths = cache.lengths + ids.shape[1]
        cache.own = x[:, -1:]
        return x

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._target.token_ids(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Rows of the draft's own input table, where it has one; otherwise of the target's tables."""
        if source == "input" and self._table is not None:
            return F.embedding(self.token_ids(torch.arange(self.vocab_size, device=self.device)), self._table).float()
        return self._target.embeddings(source)


def _own_table(checkpoint: Checkpoint, config: LlamaConfig, ops: LayerOps) -> Float[Tensor, "rows width"] | None:
    """The folder's own embeddings; None where it uses the target's."""
    if "embed_tokens.weight" not in checkpoint:
        return None
    return checkpoint.tensor("embed_tokens.weight", (config.vocab, config.width)).to(ops.device, ops.dtype)


def _target_head(target: Any) -> Product | None:
    """The target's product for its speech tokens, where ``passes.c`` makes it; None with ``target.head=full``."""
    head = getattr(getattr(target, "llama", None), "head", None)
    return head if isinstance(head, Product) and head.matrix.outputs == target.vocab_size else None


def _own_head(
    checkpoint: Checkpoint, config: LlamaConfig, target: Readable, ops: LayerOps
) -> tuple[Any, Int[Tensor, "rows"] | None]:
    """The folder's own output rows for speech tokens, and, where not every speech token has one, which tokens do.

    None where it uses the target's, of which 8-bit products need a copy.
    """
    ids = draft_ids(checkpoint, config)
    if "lm_head.weight" not in checkpoint:
        shared = _target_head(target) if ops.layout == "int8" else None
        return None if shared is None else shared.as_int8(), None
    row_of = {own_id: row for row, own_id in enumerate(ids.tolist())}
    speech = target.token_ids(torch.arange(target.vocab_size, device=ops.device)).tolist()
    tokens = [token for token, own_id in enumerate(speech) if own_id in row_of]
    if not [token for token in tokens if token != target.end]:
        raise ValueError(f"{checkpoint.folder}: none of the {len(ids)} ids of its draft vocabulary is a speech token")
    rows = torch.tensor([row_of[speech[token]] for token in tokens])
    head = ops.linear(checkpoint.tensor("lm_head.weight", (len(ids), config.width))[rows])
    return head, None if len(tokens) == len(speech) else torch.tensor(tokens, device=ops.device)
