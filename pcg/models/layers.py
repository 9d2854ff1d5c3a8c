"""A draft made of the target itself: a few of its layers and its head, untrained.

SSD (arXiv 2505.15380) starts its draft so, from the top layers. Without training it shows what training is worth, and
it is a start for it. Weights are the target's own, shared; only keys and values are its own.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Annotated, Any, Literal

from pcg.constraints import FROM_1
from pcg.models.footprint import Footprint, footprint
from pcg.models.llama import LlamaLM


class LayersLM(LlamaLM):
    """``count`` layers of the target, the ``first`` or the ``last`` ones, as a model of its own.

    Raises:
        ValueError: the target is no ``LlamaLM``, or has fewer layers.
    """

    def __init__(self, target: Any, count: Annotated[int, FROM_1], which: Literal["first", "last"]) -> None:
        if not isinstance(target, LlamaLM):
            raise ValueError(f"draft=layers takes layers of a LlamaLM; the target is a {type(target).__name__}")
        if count > target.layers:
            raise ValueError(f"draft.count={count}: the target has {target.layers} layers")
        vars(self).update(vars(target))
        self.layers, layers = count, target.llama.layers
        self.llama = copy.copy(target.llama)
        self.llama.layers = layers[:count] if which == "first" else layers[-count:]
        self.llama.config = replace(target.llama.config, layers=count)
        self.llama.ops = copy.copy(target.llama.ops)
        self.llama.ops.config = self.llama.config
        self.llama.passes = self.llama.ops.passes(self.llama.layers)

    @staticmethod
    def footprint(  # type: ignore[override]
        path: str, dtype: str, head: str, speech_rows: int, count: int
    ) -> Footprint:
        """That of the target's folder, cut to ``count`` layers: it reads them and holds no weights of its own."""
        return replace(footprint(path, dtype, head, speech_rows, layers=count), weights=0)
