"""Speculative decoding with any acceptance rule (Leviathan et al. 2211.17192, Chen et al. 2302.01318).

A round: the draft proposes gamma tokens, one target pass scores all gamma + 1 positions, the rule keeps some and
emits one more, and both models forget the rest by setting lengths. Rows of a batch advance each at its own pace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Prompt, Rows, mark
from pcg.interfaces import Cache, Drafted, Readable, Rule, StateRule, TokenLM
from pcg.sampling import Purpose, Randomness, Sampling, draw
from pcg.types import Generation, Round


@torch.inference_mode()
def speculative_decode(
    target: TokenLM,
    draft: TokenLM,
    rule: Rule | StateRule,
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
    rows = Rows(prompts, target.vocab_size, target.end, max_tokens, sampling, randomness, beyond=gamma)
    reads = draft.reads + last_state(target, rule)
    target_cache, draft_cache, last, recent = prefill(target, draft, prompts, gamma, max_tokens, gamma, reads, clock)
    rule = rule.over(target, target_cache, sampling) if isinstance(rule, StateRule) else rule
    clock.enter("other")
    places, again = torch.arange(recent.shape[1], device=target.device), 1 if draft.reads else 2

    while len(rows.index):
        draft_tokens, draft_probs, seen = propose(draft, recent[:, -again:], draft_cache, gamma, sampling, rows, clock)
        block = torch.cat([last, target.token_ids(draft_tokens)], 1)
        clock.enter("target")
        logits = target.step(block, target_cache)
        clock.enter("other")
        target_probs = sampling.probabilities(logits, seen)
        clock.enter("rule")
        verdict = rule.verify(draft_tokens, draft_probs, target_probs, rows.positions, rows.randomness)
        clock.enter("other")

        index, positions, count = rows.index, rows.positions, verdict.accepted + 1
        token = verdict.token.unsqueeze(1)
        said = torch.cat([draft_tokens, token], 1).scatter_(1, verdict.accepted.unsqueeze(1), token)
        commit = rows.commit(said, count, draft_probs=draft_probs, target_probs=target_probs)
        if observer is not None:
            clock.pause()
            emitted, finished = torch.tensor(commit.emitted), torch.tensor(commit.finished)
            observer(Round(index, positions, draft_tokens, draft_probs, target_probs, verdict, said, emitted, finished))
            clock.enter("other")

        rejected = gamma - commit.accepted
        again = int(commit.accepted.max()) + 1 if draft.reads else 2
        target_cache.lengths = target_cache.lengths - rejected
        draft_cache.lengths = draft_cache.lengths - rejected - (again - 2)
        last, newest = target.token_ids(token), count.unsqueeze(1) + places
        recent = torch.cat([recent, draft.token_ids(said)], 1).gather(1, newest)
        if len(commit.active) < len(index):
            last, recent = keep_rows(commit.active, (rows, target_cache, draft_cache), last, recent)
    clock.pause()
    return rows.generations()


def prefill(
    target: TokenLM,
    draft: TokenLM,
    prompts: Sequence[Prompt],
    gamma: int,
    max_tokens: int,
    beyond: int,
    reads: tuple[int, ...],
    clock: Clock,
) -> tuple[Any, Any, Int[Tensor, "batch 1"], Int[Tensor, "batch width"]]:
    """Both models' caches, and the tokens that each is fed next.

    The target is fed the last token. The draft is fed the last two, though it mostly knows the first of them: after a
    block that was kept whole it does not, and this way every round has the same shapes. A draft that reads the target's
    states is fed all that the last round added: what it knew of those came from states of its own.

    Args:
        beyond: positions that a pass of the target may write after the last token.
        reads: the target's states that its cache keeps.
    """
    target_ids = [target.prompt(prompt.utterance, prompt.speech) for prompt in prompts]
    draft_ids = [draft.prompt(prompt.utterance, prompt.speech) for prompt in prompts]
    clock.enter("prefill")
    target_cache = target.prefill(target_ids, max(map(len, target_ids)) + max_tokens + beyond, reads)
    draft_cache = draft.prefill(draft_ids, max(map(len, draft_ids)) + max_tokens + gamma, target=target_cache)
    if not draft.reads:
        draft_cache.lengths = draft_cache.lengths - 1
    width = gamma + 1 if draft.reads else 2
    # a prompt may be shorter; what stands before it is never fed
    long = [each if len(each) >= width else F.pad(each, (width - len(each), 0)) for each in draft_ids]
    last, recent = (torch.stack([each[-n:] for each in ids]) for ids, n in ((target_ids, 1), (long, width)))
    return target_cache, draft_cache, last, recent


def keep_rows(active: Sequence[int], parts: Sequence[Rows | Cache], *ids: Int[Tensor, "_ _"]) -> list[Tensor]:
    """Let the other rows leave; the ``ids`` of those that stay."""
    kept = torch.tensor(active, dtype=torch.int64)
    for part in parts:
        part.keep(kept)
    return [each[kept.to(each.device)] for each in ids]


def last_state(target: TokenLM, rule: Rule | StateRule) -> tuple[int, ...]:
    """What the target must keep for the rule, after what the draft reads.

    Raises:
        ValueError: the target shows no states.
    """
    if not isinstance(rule, StateRule):
        return ()
    if not isinstance(target, Readable):
        raise ValueError(f"{type(rule).__name__} reads hidden states, which a {type(target).__name__} does not show")
    return (target.layers,)


def propose(
    draft: TokenLM,
    recent: Int[Tensor, "batch again"],
    cache: Cache,
    gamma: int,
    sampling: Sampling,
    rows: Rows,
    clock: Clock,
) -> Drafted:
    """Draft ``gamma`` tokens: as ``chain``, by the draft itself where it can.

    Draft i of a round that starts at position s is drawn with draw i of (s, ``TOKEN``): a rule may have looked at a
    draft that it did not keep, so a later round must not draw that position with the same number.
    """
    uniform = rows.randomness.draws(rows.positions, Purpose.TOKEN, gamma)
    if hasattr(draft, "propose"):  # a ``ChainLM``; asking for the protocol takes 10 us a round
        clock.enter("draft", passes=gamma)
        found: Drafted = draft.propose(recent, cache, uniform, sampling, rows.seen)
        clock.enter("other")
        return found

    def step(ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        clock.enter("draft")
        logits = draft.step(ids, cache)[:, -1]
        clock.enter("other")
        return logits

    return chain(step, draft.token_ids, recent, uniform, sampling, rows.seen)


def chain(
    step: Callable[[Int[Tensor, "batch new"]], Float[Tensor, "batch vocab"]],
    token_ids: Callable[[Int[Tensor, "batch 1"]], Int[Tensor, "batch 1"]],
    recent: Int[Tensor, "batch again"],
    uniform: Float[Tensor, "batch gamma"],
    sampling: Sampling,
    seen: Bool[Tensor, "batch vocab"] | None,
) -> Drafted:
    """A token for each number of ``uniform``, each fed to the next step: the tokens, the distribution that each was
    drawn from, and what was seen before each."""
    tokens: list[Tensor] = []
    probs, marks = [], [seen]
    for number in uniform.unbind(1):
        logits = step(token_ids(tokens[-1]) if tokens else recent)
        probs.append(sampling.probabilities(logits, marks[-1]))
        tokens.append(draw(probs[-1], number).unsqueeze(1))
        marks.append(None if marks[-1] is None else mark(marks[-1], tokens[-1]))
    history = None if seen is None else torch.stack([each for each in marks if each is not None], 1)
    return torch.cat(tokens, 1), torch.stack(probs, 1), history
