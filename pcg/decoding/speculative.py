"""Speculative decoding with any acceptance rule (Leviathan et al. 2211.17192, Chen et al. 2302.01318).

A round: the draft proposes gamma tokens, one target pass scores all gamma + 1 positions, the rule keeps some and emits
one more, and both models drop the rest by setting lengths. Each row of a batch advances at its own pace.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from pcg.decoding.clock import Clock
from pcg.decoding.proposer import Proposer
from pcg.decoding.rows import Batch, Rows
from pcg.decoding.scorer import Scorer
from pcg.interfaces import Readable, Rule, StateRule, TokenLM
from pcg.types import Generation, Round


@torch.inference_mode()
def speculative_decode(
    target: TokenLM,
    draft: TokenLM,
    rule: Rule | StateRule,
    batch: Batch,
    gamma: int,
    observer: Callable[[Round], None] | None = None,
    clock: Clock | None = None,
) -> list[Generation]:
    """Speech tokens of each prompt, until end-of-speech or the batch's ``max_tokens``.

    Args:
        gamma: draft tokens a round.
        observer: called with every round; its time is not counted as decoding.
    """
    if gamma < 1:
        raise ValueError(f"gamma={gamma} must be 1 or more")
    clock = clock or Clock(target.device)
    rows = Rows(batch, target, beyond=gamma)
    scorer = Scorer(target, rows, gamma, draft.reads + states_of(rule, target), clock)
    proposer = Proposer(draft, rows, gamma, scorer.cache, clock)
    rule = rule.over(target, scorer.cache, batch.sampling) if isinstance(rule, StateRule) else rule

    while rows:
        draft_tokens, draft_probs, history = proposer.propose()
        target_probs = scorer.score(draft_tokens, history)
        with clock.during("rule"):
            verdict = rule.verify(draft_tokens, draft_probs, target_probs, rows.positions, rows.randomness)

        accepted, token = verdict.accepted, verdict.token.unsqueeze(1)
        block = torch.cat([draft_tokens, token], 1).scatter_(1, accepted.unsqueeze(1), token)
        commit = rows.commit(block, accepted + 1, draft_probs=draft_probs, target_probs=target_probs)
        if observer is not None:
            with clock.paused():
                observer(commit.as_round(draft_tokens, draft_probs, target_probs, verdict, block))

        scorer.accept(verdict.token, commit.accepted)
        proposer.accept(block, accepted, commit.accepted)
        if commit.active is not None:
            for part in (rows, scorer, proposer):
                part.keep(commit.active)
    clock.pause()
    return rows.generations()


def states_of(rule: Rule | StateRule, target: TokenLM) -> tuple[int, ...]:
    """The hidden states that the target must keep for the rule, besides those that the draft reads.

    Raises:
        ValueError: the target does not give hidden states.
    """
    if not isinstance(rule, StateRule):
        return ()
    if not isinstance(target, Readable):
        raise ValueError(f"{type(rule).__name__} needs hidden states, which a {type(target).__name__} does not give")
    return (target.layers,)
