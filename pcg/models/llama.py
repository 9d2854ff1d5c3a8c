"""Llama, Qwen2 and Qwen3 for decoding: few operations a layer, and a static cache with a length per row.

Reads Hugging Face folders of these models and computes the logits that transformers computes. How a pass uses the cache
is described in ``pcg.models.cache``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.models.cache import LlamaCache, check_room
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.footprint import footprint
from pcg.models.layer_ops import LayerOps, Memory, Span
from pcg.models.layout import choose
from pcg.models.linear import is_plain
from pcg.models.text_side import TextSide, check_ids
from pcg.models.tree import Tree
from pcg.types import Utterance


class Llama:
    """The transformer: token ids in, hidden states and logits out."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, head_rows: Int[Tensor, "rows"] | None
    ) -> None:
        """``head_rows``: the token ids to compute logits for; None for all.

        Raises ValueError for tensors that are missing, of the wrong shape, or not part of this architecture.
        """
        self.config = c = LlamaConfig.read(checkpoint.config, checkpoint.folder)
        table = checkpoint.tensor("model.embed_tokens.weight", (c.vocab, c.width))
        self.ops = LayerOps(c, dtype, device, choose(c, table.dtype, dtype, device))
        self.table = table.to(device, dtype)
        self.head = self.ops.linear(self._output_rows(checkpoint, table, head_rows))
        self.layers = [self.ops.read_layer(checkpoint, f"model.layers.{i}.") for i in range(c.layers)]
        self.norm = self.ops.read_norm(checkpoint, "model.norm.weight")
        self.passes = self.ops.passes(self.layers)
        checkpoint.refuse_unread()

    def _output_rows(self, checkpoint: Checkpoint, table: Tensor, rows: Tensor | None) -> Float[Tensor, "rows width"]:
        """The output table: ``lm_head`` where the folder has one, even if config.json ties it, as in transformers."""
        c = self.config
        self.tied = c.tied and "lm_head.weight" not in checkpoint
        weight = table if self.tied else checkpoint.tensor("lm_head.weight", (c.vocab, c.width))
        return weight if rows is None else weight[rows]

    def forward(
        self, ids: Int[Tensor, "batch new"], cache: LlamaCache, tree: Tree | None = None
    ) -> Float[Tensor, "batch new width"]:
        """Append ``ids``, in sequence or as a tree, to each row at its own length; the last hidden states of each."""
        if self.passes is not None:
            cache.room(ids.shape[1])
            x = self.passes.through(F.embedding(ids, self.table), self.norm, cache, tree)
        else:
            span = self.ops.span(cache, ids.shape[1]) if tree is None else self.ops.tree_span(cache, tree)
            x = self.through(ids, span, span.memories(cache.states, self.config.kv_heads), cache.reads, cache.hidden)
        cache.lengths = cache.lengths + ids.shape[1]
        return x

    def through(
        self,
        ids: Int[Tensor, "batch new"],
        span: Span,
        memories: Iterable[Memory],
        reads: tuple[int, ...],
        hidden: Float[Tensor, "batch reads capacity width"],
    ) -> Float[Tensor, "batch new width"]:
        """One pass through all layers; writes the states that ``reads`` names into ``hidden``."""
        ops = self.ops
        x = F.embedding(ids, self.table)
        seen = {0: x} if reads else {}
        for depth, state in enumerate(ops.through(self.layers, x, span, memories), 1):
            x = state
            if depth in reads:
                seen[depth] = state
        x = ops.rms(x, self.norm)
        if reads:
            seen[len(self.layers)] = x
            span.write(span.room(hidden), torch.stack([seen[depth] for depth in reads], 1))
        return x

    def logits(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch rows"]:
        return self.head(hidden).float()


class LlamaLM:
    """A ``TokenLM`` of the Llama family.

    Attributes:
        folder: of its weights.

    Args:
        path: a Hugging Face folder, or ``bundled:NAME`` for one inside the package.
        text: its text side.
        head: ``speech`` computes logits of the speech vocabulary only; ``full`` computes all and selects those.
    """

    footprint = staticmethod(footprint)
    reads: tuple[int, ...] = ()

    def __init__(
        self, path: str, text: TextSide, dtype: Dtype, device: str | torch.device, head: Literal["speech", "full"]
    ) -> None:
        self.device, self.text = torch.device(device), text
        self.folder = resolve_folder(path)
        self._checkpoint = Checkpoint(self.folder)
        check_ids(path, text.speech_ids, self._checkpoint.config["vocab_size"])
        rows = text.speech_ids if head == "speech" else None
        self.llama = Llama(self._checkpoint, dtype_of(dtype), self.device, rows)
        self.vocab_size = len(text.speech_ids)
        self.end = self.vocab_size - 1
        self._speech_ids = text.speech_ids.to(self.device)
        self._full_head = head == "full"
        self.width, self.layers = self.llama.config.width, self.llama.config.layers
        self.fingerprint = self._checkpoint.fingerprint

    @property
    def ops(self) -> LayerOps:
        return self.llama.ops

    @property
    def is_plain(self) -> bool:
        """Whether its products are torch's own, which can be compiled."""
        return is_plain(self.llama.head) and is_plain(self.llama.layers[0].qkv)

    @property
    def layout(self) -> str:
        """The memory layout of its weights (``pcg.models.layout``)."""
        return self.ops.layout

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, prompt_tokens).to(self.device)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> LlamaCache:
        """Raises ValueError where ``capacity`` exceeds the model's positions, or it has no such hidden state."""
        check_room(prompts, capacity, self.llama.config.positions)
        cache = self.ops.cache(len(prompts), capacity, reads)
        # padded at the end, so that entries of the padding lie beyond each row's length
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if ids.shape[1]:
            self.llama.forward(ids, cache)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: LlamaCache) -> Float[Tensor, "batch new vocab"]:
        return self.head(self.llama.forward(tokens, cache))

    @torch.inference_mode()
    def step_tree(
        self, tokens: Int[Tensor, "batch new"], cache: LlamaCache, tree: Tree
    ) -> Float[Tensor, "batch new vocab"]:
        return self.head(self.llama.forward(tokens, cache, tree))

    def embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new width"]:
        return F.embedding(ids, self.llama.table)

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        logits = self.llama.logits(hidden)
        return logits[..., self._speech_ids] if self._full_head else logits

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._speech_ids.take(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Raises ValueError for a source other than ``input`` and ``output``."""
        if source not in ("input", "output"):
            raise ValueError(f"embedding source {source!r} does not exist; choose input or output")
        c = self.llama.config
        name = "lm_head.weight" if source == "output" and not self.llama.tied else "model.embed_tokens.weight"
        rows = self._checkpoint.tensor(name, (c.vocab, c.width))[self.text.speech_ids]
        return rows.float().to(self.device)
