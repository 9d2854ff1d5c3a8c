"""Speculative decoding with any acceptance rule (Leviathan et al. 2211.17192, Chen et al. 2302.01318).

A round: the draft proposes gamma tokens, one target pass scores all gamma + 1 positions, the rule keeps some and
emits one more, and both models forget the rest by setting lengths. Rows of a batch advance each at its own pace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Prompt, Rows, mark
from pcg.interfaces import Cache, Rule, TokenLM
from pcg.sampling import Purpose, Randomness, Sampling, draw
from pcg.types import Generation, Round


@torch.inference_mode()
def speculative_decode(
    target: TokenLM,
    draft: TokenLM,
    rule: Rule,
    prompts: Sequence[Prompt],
    *,
    gamma: int,
    sampling: Sampling,
    max_tokens: int,
    randomness: Randomness,
    observer: Callable[[Round], None] | None = None,
    clock: Clock | None = None,
) -> list[Generation]:
    """Speech tokens of each prompt, until end-of-speech or ``max_tokens``.

    Args:
        gamma: draft tokens a round.
        sampling: how the logits of both models become probabilities.
        randomness: one key a prompt.
        observer: sees every round; its time is not decoding time.
    """
    if gamma < 1:
        raise ValueError(f"gamma={gamma}: 1 or more")
    clock = clock or Clock(target.device)
    target_ids = [target.prompt(prompt.utterance, prompt.speech) for prompt in prompts]
    draft_ids = [draft.prompt(prompt.utterance, prompt.speech) for prompt in prompts]
    rows = Rows(prompts, target.vocab_size, target.end, max_tokens, sampling, randomness)
    clock.enter("prefill")
    target_cache = target.prefill(target_ids, capacity=max(map(len, target_ids)) + max_tokens + gamma)
    draft_cache = draft.prefill(draft_ids, capacity=max(map(len, draft_ids)) + max_tokens + gamma)
    clock.enter("other")
    # The target is fed the last token. The draft is fed the last two, though it mostly knows the first of them:
    # after a block that was kept whole it does not, and this way every round has the same shapes.
    last = torch.stack([ids[-1:] for ids in target_ids])
    last_two = torch.stack([ids[-2:] for ids in draft_ids])
    draft_cache.lengths = draft_cache.lengths - 1

    while len(rows.index):
        draft_tokens, draft_probs, seen = propose(draft, last_two, draft_cache, gamma, sampling, rows, clock)
        block = target.token_ids(draft_tokens)
        clock.enter("target")
        logits = target.step(torch.cat([last, block], 1), target_cache)
        clock.enter("other")
        target_probs = sampling.probabilities(logits, seen)
        clock.enter("rule")
        verdict = rule.verify(draft_tokens, draft_probs, target_probs, rows.positions, rows.randomness)
        clock.enter("other")
        accepted = verdict.accepted.unsqueeze(1)
        kept = torch.cat([draft_tokens, draft_tokens[:, :1]], 1).scatter(1, accepted, verdict.token.unsqueeze(1))
        index, positions = rows.index, rows.positions
        commit = rows.commit(kept, verdict.accepted + 1)
        if observer is not None:
            clock.pause()
            observer(
                Round(
                    index, positions, draft_tokens, draft_probs, target_probs, verdict, commit.emitted, commit.finished
                )
            )
            clock.enter("other")

        rejected = gamma - verdict.accepted.cpu()
        for cache in (target_cache, draft_cache):
            cache.lengths = cache.lengths - rejected
        last = target.token_ids(verdict.token).unsqueeze(1)
        said = torch.cat([last_two[:, 1:], draft.token_ids(kept)], 1)
        last_two = said.gather(1, torch.cat([accepted, accepted + 1], 1))
        if len(commit.active) < len(index):
            rows.keep(commit.active)
            target_cache.keep(commit.active)
            draft_cache.keep(commit.active)
            on_device = commit.active.to(last.device)
            last, last_two = last[on_device], last_two[on_device]
    clock.pause()
    return rows.generations()


def propose(
    draft: TokenLM,
    last_two: Int[Tensor, "batch 2"],
    cache: Cache,
    gamma: int,
    sampling: Sampling,
    rows: Rows,
    clock: Clock,
) -> tuple[Int[Tensor, "batch gamma"], Float[Tensor, "batch gamma vocab"], Bool[Tensor, "batch gamma+1 vocab"] | None]:
    """Draft ``gamma`` tokens: the tokens, the distribution each was drawn from, and what was seen before each.

    The token at position i is drawn with the number (position i, ``TOKEN``), whichever round proposes it.
    """
    steps = torch.arange(gamma, device=rows.positions.device)
    uniform = rows.randomness.uniform(rows.positions.unsqueeze(1) + steps, Purpose.TOKEN)
    ids, tokens, probs, seen = last_two, [], [], [rows.seen]
    for step in range(gamma):
        clock.enter("draft")
        logits = draft.step(ids, cache)[:, -1]
        clock.enter("other")
        probs.append(sampling.probabilities(logits, seen[-1]))
        tokens.append(draw(probs[-1], uniform[:, step]).unsqueeze(1))
        ids = draft.token_ids(tokens[-1])
        seen.append(None if seen[-1] is None else mark(seen[-1], tokens[-1]))
    history = None if rows.seen is None else torch.stack([each for each in seen if each is not None], 1)
    return torch.cat(tokens, 1), torch.stack(probs, 1), history
