"""Times methods against each other in one process: each decodes the same prompts, in turns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pcg.decoding import autoregressive
from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.interfaces import Rule, TokenLM
from pcg.results import timing
from pcg.sampling import Randomness, Sampling, as_keys


@dataclass(frozen=True)
class Timed:
    """What decoding one batch of prompts once took.

    Attributes:
        tokens: emitted by all rows, end-of-speech included.
        seconds: by part of the loop; only ``whole`` for a method whose parts cannot be timed.
        passes: by part; ``target`` counts a pass over all rows once.
        rows: prompts in the batch.
    """

    tokens: int
    seconds: Mapping[str, float]
    passes: Mapping[str, int] = field(default_factory=dict)
    rows: int = 1

    @property
    def whole(self) -> float:
        """All seconds, prefill included."""
        return sum(self.seconds.values())

    @property
    def decoding(self) -> float:
        """Seconds without prefill."""
        return timing.decode_seconds(self.seconds)


Method = Callable[[Sequence[Prompt], int], Timed]  # of a batch of prompts and a seed


def own_method(
    target: TokenLM,
    draft: TokenLM | None,
    rule: Rule | None,
    *,
    gamma: int,
    sampling: Sampling,
    max_tokens: int,
    device: torch.device,
    now: Callable[[], float],
) -> Method:
    """Our loop, timed: speculative with a draft and a rule, else the target alone."""

    def decode(prompts: Sequence[Prompt], seed: int) -> Timed:
        keys = as_keys([prompt.utterance.id for prompt in prompts], device)
        clock = Clock(device, now)
        batch = Batch(prompts, sampling, max_tokens, Randomness(seed, keys))
        if draft is None or rule is None:
            generations = autoregressive.decode(target, batch, clock)
        else:
            generations = speculative_decode(target, draft, rule, batch, gamma, clock=clock)
        emitted = sum(len(generation.tokens) + generation.finished for generation in generations)
        return Timed(emitted, clock.seconds, dict(clock.passes), len(prompts))

    return decode


def in_turns(
    methods: Mapping[str, Method], batches: Iterable[Sequence[Prompt]], repeats: int, seed: int
) -> dict[str, list[Timed]]:
    """Decode every batch by every method in turns, each with another seed. The first turn warms up and is dropped."""
    times: dict[str, list[Timed]] = {name: [] for name in methods}
    for prompts in batches:
        for repeat in range(repeats + 1):
            for name, decode in methods.items():
                timed = decode(prompts, seed + repeat)
                if repeat:
                    times[name].append(timed)
    return times


def total(timed: Sequence[Timed]) -> Timed:
    """Sum the times of batches of one size."""
    seconds, passes = Counter[str](), Counter[str]()
    for one in timed:
        seconds.update(one.seconds)
        passes.update(one.passes)
    return Timed(sum(one.tokens for one in timed), dict(seconds), dict(passes), timed[0].rows)


def against(timed: Sequence[Timed], alone: Sequence[Timed]) -> dict[str, Any]:
    """Figures of speculative decoding against the target alone on the same batches.

    ``seconds_of_round`` are by part; ``shares`` are of their sum.
    """
    summed, alone_summed = total(timed), total(alone)
    rounds = summed.passes["target"]
    of_round = {part: spent / rounds for part, spent in summed.seconds.items() if part != "prefill"}
    tau = summed.tokens / rounds / summed.rows
    speedup = timing.speedup(
        [(one.decoding, one.tokens) for one in alone], [(one.decoding, one.tokens) for one in timed]
    )
    ideal = timing.measured_ideal(tau, (alone_summed.seconds, alone_summed.passes), (summed.seconds, summed.passes))
    return {
        "tau": tau,
        **speedup.named("speedup"),
        "ideal_speedup": ideal,
        "of_ideal": speedup.value / ideal if speedup.value and ideal else None,
        "seconds_of_round": of_round,
        "shares": {part: spent / summed.decoding * rounds for part, spent in of_round.items()},
    }
