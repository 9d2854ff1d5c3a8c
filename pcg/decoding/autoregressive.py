"""Plain decoding with the target alone: the baseline that speed is measured against, and the oracle of tests."""

from __future__ import annotations

from dataclasses import replace

import torch

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Rows
from pcg.decoding.statistics import plain_counts
from pcg.interfaces import TokenLM
from pcg.sampling import Purpose, check_probabilities, draw
from pcg.types import Generation


@torch.inference_mode()
def decode(
    target: TokenLM,
    batch: Batch,
    clock: Clock | None = None,
) -> list[Generation]:
    """Sample speech tokens one at a time until end-of-speech or ``max_tokens``.

    The token at position i is drawn with the number (position i, ``TOKEN``).
    """
    clock = clock or Clock(target.device)
    ids = [target.prompt(prompt.utterance, prompt.speech) for prompt in batch.prompts]
    rows = Rows(batch, target)
    with clock.during("prefill"):
        cache = target.prefill(ids, capacity=max(map(len, ids)) + batch.max_tokens)
    last = torch.stack([prompt[-1:] for prompt in ids])
    while rows:
        with clock.during("target"):
            logits = target.step(last, cache)[:, -1]
        probs = batch.sampling.probabilities(logits, rows.history)
        check_probabilities(target_probs=probs)
        tokens = draw(probs, rows.randomness.uniform(rows.positions, Purpose.TOKEN))
        last = target.token_ids(tokens).unsqueeze(1)
        active = rows.commit(tokens.unsqueeze(1), torch.ones_like(tokens), target_probs=probs).active
        if active is not None:
            rows.keep(active)
            cache.keep(active)
            last = last[active.to(last.device)]
    clock.pause()
    return [
        replace(generation, counts=plain_counts(generation), kinds=("plain",) * len(generation.tokens))
        for generation in rows.generations()
    ]
