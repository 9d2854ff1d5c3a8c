"""Plain decoding with the target alone: the baseline that speed is measured against, and the oracle of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Prompt, Rows
from pcg.decoding.statistics import plain_counts
from pcg.interfaces import TokenLM
from pcg.sampling import Purpose, Randomness, Sampling, check_probabilities, draw
from pcg.types import Generation


@torch.inference_mode()
def decode(
    target: TokenLM,
    prompts: Sequence[Prompt],
    *,
    sampling: Sampling,
    max_tokens: int,
    randomness: Randomness,
    clock: Clock | None = None,
) -> list[Generation]:
    """Sample speech tokens one at a time until end-of-speech or ``max_tokens``.

    Args:
        randomness: one key a prompt. The token at position i is drawn with the number (position i, ``TOKEN``).
    """
    clock = clock or Clock(target.device)
    ids = [target.prompt(prompt.utterance, prompt.speech) for prompt in prompts]
    rows = Rows(prompts, target.vocab_size, target.end, max_tokens, sampling, randomness)
    clock.enter("prefill")
    cache = target.prefill(ids, capacity=max(map(len, ids)) + max_tokens)
    clock.enter("other")
    last = torch.stack([prompt[-1:] for prompt in ids])
    while len(rows.index):
        clock.enter("target")
        logits = target.step(last, cache)[:, -1]
        clock.enter("other")
        probs = sampling.probabilities(logits, rows.seen)
        check_probabilities(target_probs=probs)
        tokens = draw(probs, rows.randomness.uniform(rows.positions, Purpose.TOKEN))
        last = target.token_ids(tokens).unsqueeze(1)
        active = rows.commit(tokens.unsqueeze(1), torch.ones_like(tokens), target_probs=probs).active
        if len(active) < len(rows.index):
            kept = torch.tensor(active, dtype=torch.int64)
            rows.keep(kept)
            cache.keep(kept)
            last = last[kept.to(last.device)]
    clock.pause()
    return [
        replace(generation, counts=plain_counts(generation), kinds=("plain",) * len(generation.tokens))
        for generation in rows.generations()
    ]
