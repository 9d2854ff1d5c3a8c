"""A draft made of the target itself: a few of its layers and its head, untrained.

SSD (arXiv 2505.15380) starts its draft so, from the top layers. Without training it shows what training is worth, and
it is a start for it. Weights are the target's own, shared; only keys and values are its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from pcg.constraints import FROM_1
from pcg.models.blocks import LlamaCache
from pcg.models.footprint import Footprint, footprint
from pcg.models.llama import LlamaLM
from pcg.types import Utterance


class LayersLM:
    """``TokenLM`` of ``count`` layers of the target, the ``first`` or the ``last`` ones.

    Raises:
        ValueError: the target is no ``LlamaLM``, or has fewer layers.
    """

    reads: tuple[int, ...] = ()

    def __init__(self, target: Any, count: Annotated[int, FROM_1], which: Literal["first", "last"]) -> None:
        if not isinstance(target, LlamaLM):
            raise ValueError(f"draft=layers takes layers of a LlamaLM; the target is a {type(target).__name__}")
        if count > target.layers:
            raise ValueError(f"count={count}: the target has {target.layers} layers")
        layers = target.llama.layers
        self._model = copy.copy(target)
        self._model.llama = shallow = copy.copy(target.llama)
        shallow.layers = layers[:count] if which == "first" else layers[-count:]
        shallow.config = replace(target.llama.config, layers=count)
        shallow.blocks = copy.copy(target.llama.blocks)
        shallow.blocks.config = shallow.config
        shallow.passes = shallow.blocks.passes(shallow.layers)
        self.vocab_size, self.end, self.device, self.text = target.vocab_size, target.end, target.device, target.text

    @staticmethod
    def footprint(path: str, dtype: str, head: str, speech_rows: int, count: int) -> Footprint:
        """Of the target's folder, cut to ``count`` layers: what it reads, but nothing of its own on the device."""
        return replace(footprint(path, dtype, head, speech_rows, layers=count), weights=0)

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self._model.prompt(utterance, prompt_tokens)

    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> LlamaCache:
        return self._model.prefill(prompts, capacity, reads)

    def step(self, tokens: Int[Tensor, "batch new"], cache: LlamaCache) -> Float[Tensor, "batch new vocab"]:
        return self._model.step(tokens, cache)

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._model.token_ids(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        return self._model.embeddings(source)
