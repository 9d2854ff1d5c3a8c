"""Speculative decoding with several candidates at each position: a chain of stars (pcg.acceptance.candidates).

The draft proposes a chain of gamma tokens as always, and draws some rivals at each position from the distribution that
it has there: this takes no further draft pass. One target pass scores the chain and the rivals, a tree of
1 + gamma * candidates tokens. Where a token of the chain is rejected, a rival may be kept instead; it ends the round
and a bonus token follows it. So at most one entry of a row's cache must be moved. docs/trees.md compares other trees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.proposer import Proposer
from pcg.decoding.rows import Batch, Rows
from pcg.decoding.scorer import Scorer
from pcg.history import History, join
from pcg.interfaces import Rule, TokenLM
from pcg.models.tree import Tree
from pcg.sampling import Purpose, Randomness, draw_several
from pcg.types import Generation, Probs, Rates, Round, Verdict


@dataclass(frozen=True)
class StarVerdict(Verdict):
    """A verdict where positions have several candidates.

    Attributes:
        rival: which candidate of its position the last kept token is: 0 for the first. A rival (1 and above) ends its
            round, and ``token`` is then a bonus token.
    """

    rival: Int[Tensor, "batch"]


@runtime_checkable
class BranchingLM(TokenLM, Protocol):
    """A target that scores a tree of continuations in one pass. Its caches can ``move`` an entry of each row."""

    def step_tree(self, tokens: Int[Tensor, "batch new"], cache: Any, tree: Tree) -> Float[Tensor, "batch new vocab"]:
        """As ``step`` for a tree of tokens; their cache entries lie one after another, in the order of ``tokens``."""


@runtime_checkable
class OutcomeMap(Protocol):
    """What tokens are tested as: outcomes, which may depend on the target's distribution, on nothing drawn."""

    def draw(
        self,
        tokens: Int[Tensor, "batch n"],
        target_probs: Float[Tensor, "batch vocab"],
        uniform: Float[Tensor, "batch n"],
    ) -> Int[Tensor, "batch n"]:
        """The outcome that each token is tested as."""

    def mass(
        self, probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*#batch vocab"]
    ) -> Float[Tensor, "*batch outcomes"]:
        """Each outcome's probability where tokens have ``probs``."""

    def spread(self, values: Float[Tensor, "*batch outcomes"], target_probs: Probs) -> Probs:
        """For each token, the expectation of ``values`` over its outcome."""


@runtime_checkable
class OutcomeRule(Rule, Protocol):
    """A rule that is exact speculative decoding of an *outcome*, the token itself or its group, and so can test several
    candidates (``pcg.acceptance.candidates``).
    """

    @property
    def outcomes(self) -> OutcomeMap:
        """What tokens are tested as."""

    def keep(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        numbers: Float[Tensor, "batch gamma purposes"],
    ) -> Int[Tensor, "batch"]:
        """How many leading tokens pass. ``numbers``: of the purposes accept and group, then any others."""


@runtime_checkable
class CandidateRule(Protocol):
    """Tests several candidates at each position. The first ones form a chain; a rival that is kept ends the round."""

    count: int  # candidates a position

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma count"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch nodes vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> StarVerdict:
        """``target_probs``: at the gamma + 1 positions of the chain, then after each rival, position by position."""

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """Probability that one of a position's candidates is kept."""

    def first_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """Probability that the first candidate is kept, so that the chain goes on."""


@torch.inference_mode()
def tree_decode(
    target: BranchingLM,
    draft: TokenLM,
    rule: CandidateRule,
    batch: Batch,
    gamma: int,
    observer: Callable[[Round], None] | None = None,
    clock: Clock | None = None,
) -> list[Generation]:
    """As ``speculative_decode``, with ``rule.count`` candidates at each position.

    An observer gets the first candidate of each position, and the target's distributions along the emitted tokens.
    """
    clock = clock or Clock(target.device)
    tree = stars(gamma, rule.count, target.device)
    rows = Rows(batch, target, beyond=gamma)
    scorer = Scorer(target, rows, len(tree.depths), draft.reads, clock)
    proposer = Proposer(draft, rows, gamma, scorer.cache, clock)
    step = partial(target.step_tree, tree=tree)

    while rows:
        chain, draft_probs, history = proposer.propose()
        rivals = draw_rivals(draft_probs, rule.count, rows)
        tokens = torch.cat([chain, rivals.flatten(1)], 1)
        target_probs = scorer.score(tokens, None if history is None else history_of_nodes(history, rivals), step)
        with clock.during("rule"):
            candidates = torch.cat([chain.unsqueeze(2), rivals], 2)
            verdict = rule.verify(candidates, draft_probs, target_probs, rows.positions, rows.randomness)

        accepted, node = verdict.accepted, last_kept(verdict, gamma, rule.count)
        kept, at = accepted.unsqueeze(1), node.unsqueeze(1)
        block = F.pad(chain, (1, 1)).scatter_(1, kept, F.pad(tokens, (1, 0)).gather(1, at))
        block = block.scatter_(1, kept + 1, verdict.token.unsqueeze(1))[:, 1:]
        commit = rows.commit(block, accepted + 1, draft_probs=draft_probs, target_probs=target_probs)
        if observer is not None:
            with clock.paused():
                after = target_probs.gather(1, at.unsqueeze(2).expand(-1, -1, target.vocab_size))
                along = target_probs[:, : gamma + 1].scatter(1, kept.unsqueeze(2).expand_as(after), after)
                observer(commit.as_round(chain, draft_probs, along, verdict, block))

        start = (scorer.total - 1).to(node.device)  # where the pass began in the cache
        scorer.cache.move(start + node, start + accepted)  # a rival that was kept stands behind the chain
        scorer.accept(verdict.token, commit.accepted)
        proposer.accept(block, accepted, commit.accepted)
        if commit.active is not None:
            for part in (rows, scorer, proposer):
                part.keep(commit.active)
    clock.pause()
    return rows.generations()


def stars(gamma: int, count: int, device: torch.device) -> Tree:
    """The tree of a round: the last token, the chain after it, then each position's rivals, which see that chain."""
    of_rivals = torch.arange(1, gamma + 1, device=device).repeat_interleave(count - 1)
    depths = torch.cat([torch.arange(gamma + 1, device=device), of_rivals])
    nodes = torch.arange(len(depths), device=device)
    sees = (depths < depths.unsqueeze(1)) & (nodes <= gamma) | (nodes == nodes.unsqueeze(1))
    return Tree(depths, sees)


def draw_rivals(
    draft_probs: Float[Tensor, "batch gamma vocab"], count: int, rows: Rows
) -> Int[Tensor, "batch gamma {count}-1"]:
    """The other candidates of each position, by the draws of the round's start that follow those of the chain."""
    gamma = draft_probs.shape[1]
    uniform = rows.randomness.draws(rows.positions, Purpose.TOKEN, gamma * count)[:, gamma:]
    return draw_several(draft_probs, uniform.unflatten(1, (gamma, count - 1)))


def history_of_nodes(history: History, rivals: Int[Tensor, "batch gamma others"]) -> History:
    """The history at each node of the tree, from that along the chain: a rival replaces its chain's token."""
    before = history.map(lambda part: part[:, :-1].unsqueeze(2).expand(-1, -1, rivals.shape[2], -1))
    return join([history, before.after(rivals).map(lambda part: part.flatten(1, 2))], 1)


def last_kept(verdict: StarVerdict, gamma: int, count: int) -> Int[Tensor, "batch"]:
    """The index, within the pass, of the last token that is kept; 0 is the token before the round."""
    accepted, rival = verdict.accepted, verdict.rival
    return torch.where(rival > 0, gamma + (accepted - 1) * (count - 1) + rival, accepted)
