"""Speculative decoding with several candidates at each position: a chain of stars (pcg.acceptance.candidates).

The draft proposes a chain of gamma tokens, as always, and at each of its positions draws some rivals more from the
distribution that it has there anyway: no further draft pass. One target pass scores the chain and what would follow
each rival, a tree of 1 + gamma * candidates tokens. Where a token of the chain is rejected, a rival may be kept
instead: it ends the round, with a bonus token after it. So one entry of the target's cache at most lies out of place.
docs/trees.md says why this tree and no other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Prompt, Rows
from pcg.decoding.speculative import keep_rows, prefill, propose
from pcg.interfaces import BranchingLM, CandidateRule, TokenLM
from pcg.sampling import Purpose, Randomness, Sampling, draw_several
from pcg.types import Generation, Round, Tree, Verdict


@torch.inference_mode()
def tree_decode(
    target: BranchingLM,
    draft: TokenLM,
    rule: CandidateRule,
    prompts: Sequence[Prompt],
    *,
    gamma: int,
    sampling: Sampling,
    max_tokens: int,
    randomness: Randomness,
    observer: Callable[[Round], None] | None = None,
    clock: Clock | None = None,
) -> list[Generation]:
    """As ``speculative_decode``, with ``rule.count`` candidates at each position."""
    clock = clock or Clock(target.device)
    tree = stars(gamma, rule.count, target.device)
    rows = Rows(prompts, target.vocab_size, target.end, max_tokens, sampling, randomness, beyond=gamma)
    room = len(tree.depths)
    target_cache, draft_cache, last, recent = prefill(
        target, draft, prompts, gamma, max_tokens, room, draft.reads, clock
    )
    clock.enter("other")
    # what the draft is fed is what it is fed with one candidate: of the tokens that it has not seen, a rival is but one
    width, again = recent.shape[1], 1 if draft.reads else 2

    while len(rows.index):
        chain, draft_probs, seen = propose(draft, recent[:, -again:], draft_cache, gamma, sampling, rows, clock)
        rivals = draw_rivals(draft_probs, rule.count, rows)
        tokens = torch.cat([chain, rivals.flatten(1)], 1)
        clock.enter("target")
        logits = target.step_tree(torch.cat([last, target.token_ids(tokens)], 1), target_cache, tree)
        clock.enter("other")
        target_probs = sampling.probabilities(logits, None if seen is None else seen_by_all(seen, rivals))
        clock.enter("rule")
        candidates = torch.cat([chain.unsqueeze(2), rivals], 2)
        verdict = rule.verify(candidates, draft_probs, target_probs, rows.positions, rows.randomness)
        clock.enter("other")

        index, positions, kept = rows.index, rows.positions, verdict.accepted.unsqueeze(1)
        node = last_kept(verdict, gamma, rule.count).unsqueeze(1)
        said = F.pad(chain, (1, 1)).scatter_(1, kept, F.pad(tokens, (1, 0)).gather(1, node))
        said = said.scatter_(1, kept + 1, verdict.token.unsqueeze(1))[:, 1:]
        commit = rows.commit(said, verdict.accepted + 1, draft_probs=draft_probs, target_probs=target_probs)
        if observer is not None:
            clock.pause()
            after = target_probs.gather(1, node.unsqueeze(2).expand(-1, -1, target.vocab_size))
            along = target_probs[:, : gamma + 1].scatter(1, kept.unsqueeze(2).expand_as(after), after)
            emitted, finished = torch.tensor(commit.emitted), torch.tensor(commit.finished)
            observer(Round(index, positions, chain, draft_probs, along, verdict, said, emitted, finished))
            clock.enter("other")

        before, accepted = target_cache.lengths - room, commit.accepted
        start = before.to(node.device)
        target_cache.move(start + node.squeeze(1), start + verdict.accepted)
        target_cache.lengths = before + 1 + accepted
        again = int(accepted.max()) + 1 if draft.reads else 2
        draft_cache.lengths = draft_cache.lengths - (gamma - accepted) - (again - 2)
        last = target.token_ids(verdict.token).unsqueeze(1)
        newest = kept + 1 + torch.arange(width, device=kept.device)
        recent = torch.cat([recent, draft.token_ids(said)], 1).gather(1, newest)
        if len(commit.active) < len(index):
            last, recent = keep_rows(commit.active, (rows, target_cache, draft_cache), last, recent)
    clock.pause()
    return rows.generations()


def stars(gamma: int, count: int, device: torch.device) -> Tree:
    """The last token, the chain of gamma after it, then each position's rivals, which see the chain before them."""
    of_rivals = torch.arange(1, gamma + 1, device=device).repeat_interleave(count - 1)
    depths = torch.cat([torch.arange(gamma + 1, device=device), of_rivals])
    nodes = torch.arange(len(depths), device=device)
    sees = (depths < depths.unsqueeze(1)) & (nodes <= gamma) | (nodes == nodes.unsqueeze(1))
    return Tree(depths, sees)


def draw_rivals(
    draft_probs: Float[Tensor, "batch gamma vocab"], count: int, rows: Rows
) -> Int[Tensor, "batch gamma {count}-1"]:
    """The other candidates of each position: draws from gamma on of the round's start, after those of the chain."""
    gamma = draft_probs.shape[1]
    uniform = rows.randomness.draws(rows.positions, Purpose.TOKEN, gamma * count)[:, gamma:]
    return draw_several(draft_probs, uniform.unflatten(1, (gamma, count - 1)))


def seen_by_all(
    seen: Bool[Tensor, "batch places vocab"], rivals: Int[Tensor, "batch gamma others"]
) -> Bool[Tensor, "batch nodes vocab"]:
    """What the repetition penalty applies to at each node: a rival stands where its chain's token does not."""
    before = seen[:, :-1].unsqueeze(2).expand(-1, -1, rivals.shape[2], -1)
    return torch.cat([seen, before.scatter(3, rivals.unsqueeze(3), True).flatten(1, 2)], 1)


def last_kept(verdict: Verdict, gamma: int, count: int) -> Int[Tensor, "batch"]:
    """Where in the pass the last token that is kept stands; 0 is the one before the round."""
    accepted, rival = verdict.accepted, verdict.rival
    if rival is None:
        return accepted
    return torch.where(rival > 0, gamma + (accepted - 1) * (count - 1) + rival, accepted)
