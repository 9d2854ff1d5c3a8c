"""A draft that reads the target's hidden states: one decoder layer over the target's own tables (EAGLE-3).

Source: EAGLE-3, arXiv 2503.01840 (EAGLE: 2401.15077). The token at position i enters as its embedding and the target's
states of position i - 1; where the target has not been yet, the draft's own last state stands in for those. The folder
holds tensors as published EAGLE-3 heads name them (``fc``, ``midlayer.*``, ``norm``, and where they have their own
``lm_head`` with ``d2t``); embeddings, and a head where it has none, are the target's, shared and never copied.
Departures: an entry for the prompt's first token, whose state before is zero; the chain only, no tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.interfaces import Readable
from pcg.models.blocks import Blocks, LlamaCache, Memory, Span
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, read_json, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.footprint import Footprint
from pcg.models.linear import is_plain, linear
from pcg.types import Utterance

LAYER = "midlayer."


@dataclass
class EagleCache:
    """The draft's own keys and values, the target's cache, and the draft's last state of each row."""

    memory: LlamaCache
    target: Any
    own: Float[Tensor, "batch 1 width"]

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        return self.memory.lengths

    @lengths.setter
    def lengths(self, lengths: Int[Tensor, "batch"]) -> None:
        self.memory.lengths = lengths

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.memory.keep(rows)
        self.own = self.own[rows.to(self.own.device)]


class EagleLM:
    """``TokenLM`` that drafts for the one target it was trained on.

    Args:
        path: folder of config.json (a Llama's sizes; ``reads``: the states it was trained on; ``target_fingerprint``)
            and model.safetensors.
        target: the target; the runner gives it.
        dtype: float32, bfloat16 or float16; of the target.
        device: a torch device.

    Raises:
        ValueError: the folder belongs to another target, or to one whose states cannot be read.
    """

    def __init__(self, path: str, target: Any, dtype: Dtype, device: str | torch.device) -> None:
        if not isinstance(target, Readable):
            raise ValueError(f"draft {path}: reads hidden states, which a {type(target).__name__} does not show")
        checkpoint = Checkpoint(resolve_folder(path))
        self.device, self.text = torch.device(device), getattr(target, "text", None)
        self.vocab_size, self.end = target.vocab_size, target.end
        self.config = c = LlamaConfig.read(checkpoint.config, checkpoint.folder)
        _check_target(checkpoint, c, target, path)
        # three states, early, middle and late, where a published folder does not say which
        depth = target.layers
        self.reads = tuple(checkpoint.config.get("reads") or (2, depth // 2, max(depth - 3, 0)))
        self._target, self.blocks = target, Blocks(c, dtype_of(dtype), self.device)
        width = c.width
        self._fuse = linear(
            checkpoint.tensor("fc.weight", (width, len(self.reads) * width)), self.blocks.dtype, self.device
        )
        self._layer = self.blocks.read_layer(checkpoint, LAYER, inputs=2 * width)
        self._state_norm = self.blocks.read_norm(checkpoint, f"{LAYER}hidden_norm.weight")
        self._norm = self.blocks.read_norm(checkpoint, "norm.weight")
        self._head, self._places = _own_head(checkpoint, c, target, self.blocks)

    @property
    def is_plain(self) -> bool:
        """Whether its products are torch's own, which a compiler sees through."""
        return is_plain(self._layer.qkv) and bool(getattr(self._target, "is_plain", False))

    @staticmethod
    def footprint(path: str, dtype: str, speech_rows: int) -> Footprint:
        """Of one with the target's head, which it reads and does not hold."""
        config = read_json(resolve_folder(path) / "config.json")
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
        memory = self.blocks.cache(len(prompts), capacity)
        own = torch.zeros(len(prompts), 1, self.config.width, dtype=self.blocks.dtype, device=self.device)
        cache = EagleCache(memory, target, own)
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if ids.shape[1]:
            self._forward(ids, self._known(cache, ids.shape[1]), cache)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: EagleCache) -> Float[Tensor, "batch new vocab"]:
        new = tokens.shape[1]
        known = self.knows(cache.lengths, new, cache.target)
        return self.logits(self._forward(tokens, self._known(cache, new) if known else cache.own, cache))

    def check_states(self, target: Any) -> None:
        """Raises ValueError where the target's cache does not hold the states that this draft reads."""
        if target is None or target.reads[: len(self.reads)] != self.reads:  # a rule's come after a draft's
            raise ValueError(f"this draft reads the target's states {self.reads}: prefill the target with them first")

    def knows(self, lengths: Int[Tensor, "batch"], new: int, target: Any) -> bool:
        """Whether the target has been where ``new`` tokens from ``lengths`` on are read; on the CPU, so nothing waits.

        Raises:
            ValueError: it has not, and there are several.
        """
        known = bool((lengths + new - 1 <= target.lengths).all())
        if not known and new > 1:
            raise ValueError("a draft that reads the target drafts one token at a time")
        return known

    def states(
        self, hidden: Float[Tensor, "batch reads capacity width"], before: Int[Tensor, "batch new"]
    ) -> Float[Tensor, "batch new width"]:
        """What the target's states at these positions give, zero before the first one."""
        rows = torch.arange(len(hidden), device=self.device).unsqueeze(1)
        states = hidden[rows, : len(self.reads), before.clamp(min=0)] * (before >= 0)[..., None, None]
        return self._fuse(states.flatten(2).to(self.blocks.dtype))

    def through(
        self, ids: Int[Tensor, "batch new"], x: Float[Tensor, "batch new width"], span: Span, memory: Memory
    ) -> Float[Tensor, "batch new width"]:
        """The layer: its states, which stand in for the target's where that has not been."""
        blocks, layer = self.blocks, self._layer
        embedded = self._target.embed(ids).to(blocks.dtype)
        read = torch.cat([blocks.rms(embedded, layer.attention_norm), blocks.rms(x, self._state_norm)], -1)
        x = x + blocks.attend(layer, read, memory, span)
        return x + blocks.feed(layer, x)

    def logits(self, x: Float[Tensor, "batch new width"]) -> Float[Tensor, "batch new vocab"]:
        hidden = self.blocks.rms(x, self._norm)
        if self._head is None:
            return self._target.head(hidden)
        logits = self._head(hidden).float()
        if self._places is None:
            return logits
        return logits.new_full((*logits.shape[:-1], self.vocab_size), -torch.inf).index_copy_(-1, self._places, logits)

    def _known(self, cache: EagleCache, new: int) -> Float[Tensor, "batch new width"]:
        before = (cache.lengths.unsqueeze(1) + torch.arange(new) - 1).to(self.device)
        return self.states(cache.target.hidden, before)

    def _forward(
        self, ids: Int[Tensor, "batch new"], x: Float[Tensor, "batch new width"], cache: EagleCache
    ) -> Float[Tensor, "batch new width"]:
        span = self.blocks.span(cache.memory, ids.shape[1])
        [memory] = span.memories(cache.memory.states, self.config.kv_heads)
        x = self.through(ids, x, span, memory)
        cache.lengths = cache.lengths + ids.shape[1]
        cache.own = x[:, -1:]
        return x

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._target.token_ids(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """The target's: it has none of its own."""
        return self._target.embeddings(source)


def _check_target(checkpoint: Checkpoint, config: LlamaConfig, target: Readable, path: str) -> None:
    """Raises ValueError: one layer, the target's width, and where the folder names its target, that one."""
    if config.layers != 1:
        raise ValueError(f"draft {path}: has {config.layers} layers; an EAGLE-3 head has 1")
    if config.width != target.width:
        raise ValueError(f"draft {path}: reads states of width {config.width}, the target's are {target.width} wide")
    meant = checkpoint.config.get("target_fingerprint")
    if meant is not None and meant != target.fingerprint:
        raise ValueError(
            f"draft {path}: was trained on the target with fingerprint {meant}, this one's is {target.fingerprint}: "
            "choose that target, or train the draft for this one (trainer=eagle)"
        )


def _own_head(
    checkpoint: Checkpoint, config: LlamaConfig, target: Readable, blocks: Blocks
) -> tuple[Any, Int[Tensor, "rows"] | None]:
    """The folder's own output rows of the speech vocabulary, and their places in it where some are missing."""
    if "lm_head.weight" not in checkpoint:
        return None, None
    count = checkpoint.config.get("draft_vocab_size") or config.vocab
    ids = torch.arange(count)
    if "d2t" in checkpoint:  # how far each of the draft's ids lies below the target's
        ids = ids + checkpoint.tensor("d2t", (count,))
    row_of = {token: row for row, token in enumerate(ids.tolist())}
    speech = target.token_ids(torch.arange(target.vocab_size, device=blocks.device)).tolist()
    places = [place for place, token in enumerate(speech) if token in row_of]
    rows = torch.tensor([row_of[speech[place]] for place in places])
    head = linear(checkpoint.tensor("lm_head.weight", (count, config.width))[rows], blocks.dtype, blocks.device)
    return head, None if len(places) == len(speech) else torch.tensor(places, device=blocks.device)
