"""Our own loop as what decodes a run: calls into the decoding loops, timed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pcg.config.settings import Decoding
from pcg.decoding import autoregressive, law
from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.decoding.statistics import Statistics
from pcg.decoding.tree import tree_decode
from pcg.engines.engine import Decoded
from pcg.runner.parts import Parts
from pcg.sampling import Randomness, as_keys


@dataclass(frozen=True)
class OwnLoop:
    """The ``Decoder`` that the loops of ``pcg.decoding`` are."""

    parts: Parts
    decoding: Decoding
    seed: int

    def decode(self, prompts: Sequence[Prompt], max_tokens: int, alone: bool = False) -> Decoded:
        with_draft = decode_speculative if self.decoding.mode == "speculative" else decode_by_token
        decode = decode_alone if alone or self.parts.draft is None else with_draft
        return decode(self.parts, prompts, self.decoding, self.seed, max_tokens)


def decode_alone(parts: Parts, prompts: Sequence[Prompt], decoding: Decoding, seed: int, max_tokens: int) -> Decoded:
    """The target alone."""
    clock = Clock(parts.device)
    generations = autoregressive.decode(
        parts.target, Batch(prompts, decoding.sampling, max_tokens, _randomness(parts, prompts, seed)), clock=clock
    )
    return Decoded(generations, clock.seconds, dict(clock.passes))


def decode_speculative(
    parts: Parts, prompts: Sequence[Prompt], decoding: Decoding, seed: int, max_tokens: int
) -> Decoded:
    """Target, draft and rule, with what ``Statistics`` sees of them."""
    assert parts.draft is not None
    assert parts.rule is not None
    clock, randomness = Clock(parts.device), _randomness(parts, prompts, seed)
    statistics = Statistics(decoding.gamma, parts.rule, randomness, parts.movers)
    decode: Any = speculative_decode if decoding.candidates == 1 else tree_decode
    generations = decode(
        parts.target,
        parts.draft,
        parts.rule,
        Batch(prompts, decoding.sampling, max_tokens, randomness),
        gamma=decoding.gamma,
        observer=statistics,
        clock=clock,
    )
    return Decoded(statistics.annotate(generations), clock.seconds, dict(clock.passes))


def decode_by_token(parts: Parts, prompts: Sequence[Prompt], decoding: Decoding, seed: int, max_tokens: int) -> Decoded:
    """Each token from the law of the rule, or from the target cut to what the rule keeps."""
    assert parts.draft is not None
    rule: Any = parts.rule  # has what its mode asks for: checked when the parts were loaded
    clock = Clock(parts.device)
    generations = law.decode(
        parts.target,
        parts.draft,
        rule.law if decoding.mode == "law" else lambda _, target_probs: rule.truncated(target_probs),
        Batch(prompts, decoding.sampling, max_tokens, _randomness(parts, prompts, seed)),
        clock=clock,
    )
    return Decoded(generations, clock.seconds, dict(clock.passes))


def _randomness(parts: Parts, prompts: Sequence[Prompt], seed: int) -> Randomness:
    return Randomness(seed, as_keys([prompt.utterance.id for prompt in prompts], parts.device))
