"""The interface of whatever decodes the prompts of a run, and our own loops behind it; engines: ``pcg.engines``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pcg.decoding import autoregressive
from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Listener, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.decoding.statistics import Statistics
from pcg.decoding.transport import Movers
from pcg.decoding.tree import tree_decode
from pcg.interfaces import TokenLM
from pcg.sampling import Randomness, Sampling, as_keys
from pcg.types import Generation


@dataclass(frozen=True)
class Decoded:
    """A batch, decoded.

    Attributes:
        seconds: by part of the loop (``pcg.decoding.clock``), for the batch as a whole; an engine that does not
            measure parts has ``engine`` alone, prefill included.
        calls: model passes of the batch as a whole, by part; empty where an engine does not count them.
        cpu_seconds: as ``seconds``, by the processor's clock; None where that does not count all of the work.
        counters: an engine's own counters for the batch; None where our loop decoded.
        arrivals: for each row and each round that added to it, how many tokens the row then has and the seconds of
            decoding until then; None where an engine decoded.
    """

    generations: list[Generation]
    seconds: Mapping[str, float]
    calls: Mapping[str, int]
    counters: Mapping[str, Any] | None = None
    cpu_seconds: Mapping[str, float] | None = None
    arrivals: Sequence[Sequence[tuple[int, float]]] | None = None

    @property
    def emitted(self) -> int:
        return sum(generation.counts["emitted"] for generation in self.generations)


class Decoder(Protocol):
    """Prompts in, generations and statistics out."""

    def decode(self, prompts: Sequence[Prompt], max_tokens: int, alone: bool = False) -> Decoded:
        """
        Args:
            max_tokens: speech tokens an utterance, at most.
            alone: decode with the target alone even where there is a draft.
        """


@dataclass(frozen=True)
class OwnLoop:
    """Our own loops.

    Attributes:
        draft, rule: None for the target alone.
        mode: ``law`` draws each token from the rule's law, ``truncated`` from the target cut to what the rule keeps.
        candidates: draft tokens a position; several make a tree.
        movers: measure the earth mover's distance between the rule's law and the target; None measures none.
    """

    target: TokenLM
    draft: TokenLM | None
    rule: Any
    sampling: Sampling
    gamma: int
    seed: int
    mode: Literal["speculative", "law", "truncated"] = "speculative"
    candidates: int = 1
    movers: Movers | None = None

    def decode(
        self, prompts: Sequence[Prompt], max_tokens: int, alone: bool = False, listener: Listener | None = None
    ) -> Decoded:
        clock = Clock(self.target.device)
        randomness = Randomness(self.seed, as_keys([prompt.utterance.id for prompt in prompts], self.target.device))
        arrivals: list[list[tuple[int, float]]] = [[] for _ in prompts]

        def note(row: int, tokens: Sequence[int]) -> None:
            before = arrivals[row][-1][0] if arrivals[row] else 0
            arrivals[row].append((before + len(tokens), clock.elapsed()))

        batch = Batch(prompts, self.sampling, max_tokens, randomness, listener or note)
        if alone or self.draft is None:
            generations = autoregressive.decode(self.target, batch, clock)
        elif self.mode == "speculative":
            statistics = Statistics(self.gamma, self.rule, randomness, self.movers)
            decode: Any = speculative_decode if self.candidates == 1 else tree_decode
            generations = decode(self.target, self.draft, self.rule, batch, self.gamma, statistics, clock)
            generations = statistics.annotate(generations)
        else:
            by = self.rule.law if self.mode == "law" else lambda _, target_probs: self.rule.truncated(target_probs)
            generations = autoregressive.decode(self.target, batch, clock, self.draft, by)
        return Decoded(generations, clock.seconds, dict(clock.passes), cpu_seconds=clock.cpu_seconds, arrivals=arrivals)
