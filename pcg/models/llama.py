"""Llama's line for decoding: a static cache with a length per row, few operations a layer, no modelling framework.

Reads Hugging Face folders of Llama, Qwen2 and Qwen3 and gives the logits of transformers' classes for them. A pass
appends a fixed number of tokens to every row at that row's own length and attends only to what is filled, so that
rows that accept less are simply shorter and rolling back is setting lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.models.blocks import Blocks, LlamaCache, Memory, Span, check_room
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.footprint import footprint
from pcg.models.linear import is_plain, layout_for
from pcg.models.tree import Tree
from pcg.types import Utterance


@runtime_checkable
class TextSide(Protocol):
    """How a model writes text and speech: its own ids, and the prompt that leads up to speech."""

    speech_ids: Int[Tensor, "vocab"]  # the model's own id of each entry of the speech vocabulary

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]: ...


class Llama:
    """The transformer: token ids in, hidden states and logits out."""

    def __init__(
        self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, head_rows: Int[Tensor, "rows"] | None
    ) -> None:
        """``head_rows``: the token ids to give logits for; None for all.

        Raises ValueError for tensors that are missing, of the wrong shape, or that no part of it reads.
        """
        self.config = c = LlamaConfig.read(checkpoint.config, checkpoint.folder)
        table = checkpoint.tensor("model.embed_tokens.weight", (c.vocab, c.width))
        self.blocks = Blocks(c, dtype, device, layout_for(c.head_dim, table.dtype, dtype, device))
        self.table = table.to(device, dtype)
        self.head = self.blocks.linear(self._output_rows(checkpoint, table, head_rows))
        self.layers = [self.blocks.read_layer(checkpoint, f"model.layers.{i}.") for i in range(c.layers)]
        self.norm = self.blocks.read_norm(checkpoint, "model.norm.weight")
        self.passes = self.blocks.passes(self.layers)
        checkpoint.refuse_unread()

    def _output_rows(self, checkpoint: Checkpoint, table: Tensor, rows: Tensor | None) -> Float[Tensor, "rows width"]:
        """A head that the folder holds is the model's, whatever config.json says of tied tables, as in transformers."""
        c = self.config
        self.tied = c.tied and "lm_head.weight" not in checkpoint
        weight = table if self.tied else checkpoint.tensor("lm_head.weight", (c.vocab, c.width))
        return weight if rows is None else weight[rows]

    def forward(
        self, ids: Int[Tensor, "batch new"], cache: LlamaCache, tree: Tree | None = None
    ) -> Float[Tensor, "batch new width"]:
        """Append ``ids``, in sequence or as a tree, to each row at its own length; the states after each, headless."""
        if self.passes is not None:
            cache.room(ids.shape[1])
            x = self.passes.through(F.embedding(ids, self.table), self.norm, cache, tree)
        else:
            span = self.blocks.span(cache, ids.shape[1]) if tree is None else self.blocks.tree_span(cache, tree)
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
        """One pass through all layers, each with its memory; states of ``reads`` are written into ``hidden``."""
        blocks = self.blocks
        x = F.embedding(ids, self.table)
        seen = {0: x} if reads else {}
        for depth, state in enumerate(blocks.through(self.layers, x, span, memories), 1):
            x = state
            if depth in reads:
                seen[depth] = state
        x = blocks.rms(x, self.norm)
        if reads:
            seen[len(self.layers)] = x
            span.write(span.room(hidden), torch.stack([seen[depth] for depth in reads], 1))
        return x

    def logits(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch rows"]:
        return self.head(hidden).float()


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
    reads: tuple[int, ...] = ()

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
        self.width, self.layers = self.llama.config.width, self.llama.config.layers
        self.fingerprint = self._checkpoint.fingerprint

    @property
    def is_plain(self) -> bool:
        """Whether its products are torch's own, which a compiler sees through."""
        return is_plain(self.llama.head) and is_plain(self.llama.layers[0].qkv)

    @property
    def layout(self) -> str:
        """How its weights lie in memory, and so what multiplies by them (``pcg.models.linear``)."""
        return self.llama.blocks.layout

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, prompt_tokens).to(self.device)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> LlamaCache:
        """Raises ValueError where ``capacity`` is more positions than the model knows, or a state is not there."""
        check_room(prompts, capacity, self.llama.config.positions)
        cache = self.llama.blocks.cache(len(prompts), capacity, reads)
        # padded at the end: what the pads write lies beyond each row's length
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
            raise ValueError(f"embedding source {source!r}: input or output")
        c = self.llama.config
        name = "lm_head.weight" if source == "output" and not self.llama.tied else "model.embed_tokens.weight"
        rows = self._checkpoint.tensor(name, (c.vocab, c.width))[self.text.speech_ids]
        return rows.float().to(self.device)
