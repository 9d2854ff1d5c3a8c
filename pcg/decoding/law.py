"""Each token drawn from a rule's law: what the rule says without the blocks, at a pass of both models a token.

A rule is judged by what its block loop says. This says what its law alone would. A rule that tests token by token gives
each position its law in the loop too, but for the bonus token, which is the target's: what parts the two is that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Rows
from pcg.decoding.statistics import plain_counts
from pcg.interfaces import TokenLM
from pcg.sampling import Purpose, draw
from pcg.types import Generation

Law = Callable[[Float[Tensor, "batch vocab"], Float[Tensor, "batch vocab"]], Float[Tensor, "batch vocab"]]


@torch.inference_mode()
def decode(
    target: TokenLM,
    draft: TokenLM,
    law: Law,
    batch: Batch,
    clock: Clock | None = None,
) -> list[Generation]:
    """Sample speech tokens one at a time until end-of-speech or ``max_tokens``.

    Args:
        law: of a rule; draft and target distributions at a position -> that of the token to emit. The token at
            position i is drawn with the number (position i, ``TOKEN``), as the target's own in plain decoding.
    """
    clock = clock or Clock(target.device)
    ids = [[model.prompt(prompt.utterance, prompt.speech) for prompt in batch.prompts] for model in (target, draft)]
    rows, max_tokens, sampling = Rows(batch, target), batch.max_tokens, batch.sampling
    clock.enter("prefill")
    target_cache = target.prefill(ids[0], max(map(len, ids[0])) + max_tokens, draft.reads)
    draft_cache = draft.prefill(ids[1], max(map(len, ids[1])) + max_tokens, target=target_cache)
    clock.enter("other")
    last, last_drafts = (torch.stack([prompt[-1:] for prompt in each]) for each in ids)
    while rows:
        clock.enter("target")  # first: its states are what some drafts read
        target_logits = target.step(last, target_cache)[:, -1]
        clock.enter("draft")
        draft_logits = draft.step(last_drafts, draft_cache)[:, -1]
        clock.enter("other")
        draft_probs = sampling.probabilities(draft_logits, rows.history)
        target_probs = sampling.probabilities(target_logits, rows.history)
        clock.enter("rule")
        probs = law(draft_probs, target_probs)
        clock.enter("other")
        tokens = draw(probs, rows.randomness.uniform(rows.positions, Purpose.TOKEN))
        last, last_drafts = (model.token_ids(tokens).unsqueeze(1) for model in (target, draft))
        active = rows.commit(tokens.unsqueeze(1), torch.ones_like(tokens), law=probs).active
        if active is not None:
            for part in (rows, target_cache, draft_cache):
                part.keep(active)
            last, last_drafts = (each[active.to(each.device)] for each in (last, last_drafts))
    clock.pause()
    return [_counted(generation) for generation in rows.generations()]


def _counted(generation: Generation) -> Generation:
    """A pass of each model a token; nothing is drafted, so nothing tested."""
    counts = plain_counts(generation)
    counts["draft_passes"] = counts["target_passes"]
    return replace(generation, counts=counts, kinds=("plain",) * len(generation.tokens))
