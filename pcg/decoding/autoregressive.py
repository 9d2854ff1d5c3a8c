"""Decoding one token at a time: with the target alone, or by a rule's law.

With the target alone it is the baseline of every speed-up, and the oracle of tests. By a rule's law it shows what the
law alone does. A rule that tests token by token has that law in speculative decoding too, at all positions but that of
the bonus token, which has the target's; the two differ in that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Rows
from pcg.decoding.statistics import plain_counts
from pcg.interfaces import TokenLM
from pcg.sampling import Purpose, check_probabilities, draw
from pcg.types import Generation

Law = Callable[[Float[Tensor, "batch vocab"], Float[Tensor, "batch vocab"]], Float[Tensor, "batch vocab"]]


@torch.inference_mode()
def decode(
    target: TokenLM,
    batch: Batch,
    clock: Clock | None = None,
    draft: TokenLM | None = None,
    law: Law | None = None,
) -> list[Generation]:
    """Samples speech tokens one at a time until end-of-speech or ``max_tokens``.

    The token at position i is drawn with the number (position i, ``TOKEN``).

    Args:
        draft: None for the target alone.
        law: of a rule, given with a draft: draft and target distributions at a position -> that of its token.
    """
    clock = clock or Clock(target.device)
    rows = Rows(batch, target)
    models, caches, last = [target] if draft is None else [target, draft], list[Any](), list[Tensor]()
    for model in models:
        ids = [model.prompt(prompt.utterance, prompt.speech) for prompt in batch.prompts]
        reads = draft.reads if draft is not None and model is target else ()
        with clock.during("prefill"):
            capacity = max(map(len, ids)) + batch.max_tokens
            caches.append(model.prefill(ids, capacity, reads, target=caches[0] if caches else None))
        last.append(torch.stack([prompt[-1:] for prompt in ids]))

    while rows:
        probs = []  # of the target first: its states are what some drafts read
        for name, model, tokens, cache in zip(("target", "draft"), models, last, caches, strict=False):
            with clock.during(name):
                logits = model.step(tokens, cache)[:, -1]
            probs.append(batch.sampling.probabilities(logits, rows.history))
        name, emitted = "target_probs", probs[0]
        if law is not None:
            with clock.during("rule"):
                name, emitted = "law", law(probs[1], probs[0])
        check_probabilities(**{name: emitted})
        drawn = draw(emitted, rows.randomness.uniform(rows.positions, Purpose.TOKEN))
        last = [model.token_ids(drawn).unsqueeze(1) for model in models]
        active = rows.commit(drawn.unsqueeze(1), torch.ones_like(drawn), **{name: emitted}).active
        if active is not None:
            for part in (rows, *caches):
                part.keep(active)
            last = [tokens[active.to(tokens.device)] for tokens in last]
    clock.pause()
    return [_counted(generation, drafts=draft is not None) for generation in rows.generations()]


def _counted(generation: Generation, drafts: bool) -> Generation:
    """One pass of each model for each token; nothing is drafted, so nothing is tested."""
    counts = plain_counts(generation)
    if drafts:
        counts["draft_passes"] = counts["target_passes"]
    return replace(generation, counts=counts, kinds=("plain",) * len(generation.tokens))
