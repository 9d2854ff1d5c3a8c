"""Blocks as long as they are worth their time, tested within a budget of distortion: chosen row by row.

docs/control.md derives both choices, and says why a law holds given them. A row chooses by its own past alone, so its
tokens are the same in any batch; costs are numbers of the config, never of the clock, so they are the same anywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.constraints import FROM_0, up_to
from pcg.interfaces import Controller, LadderRule, Rule
from pcg.sampling import Randomness
from pcg.types import Verdict

_STEP = 0.1  # of the price for each unit of total variation above what a position may spend
_WEIGHT = 8.0  # in tests: what is known of all places, for one of them
_PRICE = 0.8  # at the start: gain a distance of pcg at theta .8 on the bundled pair


@dataclass(frozen=True)
class Adaptive:
    """A row drafts on while that is worth its time, and may spend a budget of distortion.

    *Length.* With ``S`` the chance that all drafts so far are kept and ``a`` that of the next one, the next one adds
    ``S a`` tokens and costs ``c = draft_cost + position_cost`` target passes. It is drafted while ``S a >= rate c``,
    with the row's tokens a unit of cost so far as ``rate``, which maximises the one over the other (Dinkelbach 1967).
    ``a`` is the row's own share at that place; of a token that is drafted it is ``1 - c_i H``, linear in the entropy of
    the draft's distribution, as was measured (docs/control.md; AdaEDL, 2410.18351, bounds it by a root of H).

    *Budget.* The rules of a ladder, widest first and exact at last, are asked for their law's total variation ``d``
    from the target and for what they keep beyond exact. A position takes the first that fits what is left of the budget
    and gains at least ``price * d``; the price follows what is spent (a dual step, as in adaptive pacing).

    Args:
        least: draft tokens a round, at least; ``decoding.gamma`` or more for as many always.
        draft_cost: a draft pass, in target passes over one position.
        position_cost: what each further position adds to a target pass, likewise.
        loop_cost: what a round takes beside passes, likewise.
        budget: of an utterance: the most that the law's distances from the target may sum to over tested positions
            (total variation); None for the run's own rule everywhere.
        thetas: of the ladder's groups, widest (smallest) first; the runner builds them.
        horizon: tested positions of an utterance, about, over which the budget is spread.
    """

    least: Annotated[int, up_to(1_000)] = 1
    draft_cost: Annotated[float, FROM_0] = 0.15
    position_cost: Annotated[float, FROM_0] = 0.1
    loop_cost: Annotated[float, FROM_0] = 0.1
    budget: Annotated[float, FROM_0] | None = None
    thetas: Sequence[float] = ()
    horizon: Annotated[int, up_to(10_000_000)] = 150

    def __post_init__(self) -> None:
        if self.budget is not None and not self.thetas:
            raise ValueError("control: a budget needs thetas to choose from")

    def over(self, rule: Any, rows: int) -> Controller:
        return _Adaptive(rule, [_Row(self) for _ in range(rows)])


@dataclass
class _Adaptive:
    rule: Rule | LadderRule
    rows: list[_Row]

    def goes_on(self, draft_probs: Float[Tensor, "batch vocab"]) -> bool:
        entropies = torch.special.entr(draft_probs).sum(-1).tolist()  # waits for the device
        wanted = [row.goes_on(entropy) for row, entropy in zip(self.rows, entropies, strict=True)]
        return any(wanted)

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        """Rows with blocks of the same length are verified as what they are; the others' verdicts go unread."""
        drafted = torch.tensor([len(row.entropies) for row in self.rows], device=positions.device)
        rule, levels = self.rule, None
        if isinstance(rule, LadderRule):
            levels = self._levels(rule, draft_probs, target_probs[:, :-1])
            rule = rule.at(levels)
        verdict: Verdict | None = None
        for length in sorted({len(row.entropies) for row in self.rows}, reverse=True):
            found = rule.verify(
                draft_tokens[:, :length], draft_probs[:, :length], target_probs[:, : length + 1], positions, randomness
            )
            verdict = found if verdict is None else _merged(drafted == length, found, verdict)
        assert verdict is not None
        for row, accepted in zip(self.rows, verdict.accepted.tolist(), strict=True):
            row.learn(accepted)
        return replace(verdict, drafted=drafted, levels=levels)

    def _levels(
        self,
        rule: LadderRule,
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma vocab"],
    ) -> Int[Tensor, "batch gamma"]:
        """Which rule tests each place, chosen as if it were tested: so that what lies behind it has no say."""
        known: dict[int, tuple[list[list[float]], list[list[float]]]] = {}

        def offer(level: int, row: int, place: int) -> tuple[float, float]:
            if level not in known:  # of all rows and places at once: a sum over the table costs as much for one
                gain, distance = rule.offer(level, draft_probs, target_probs)
                known[level] = gain.tolist(), distance.tolist()
            gains, distances = known[level]
            return gains[row][place], distances[row][place]

        last, gamma = rule.levels, draft_probs.shape[1]
        chosen = [row.choose(gamma, last, lambda *at, i=i: offer(at[0], i, at[1])) for i, row in enumerate(self.rows)]
        return torch.tensor(chosen, device=draft_probs.device)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]


def _merged(mine: Tensor, found: Verdict, other: Verdict) -> Verdict:
    return Verdict(
        torch.where(mine, found.accepted, other.accepted),
        torch.where(mine, found.token, other.token),
    )


@dataclass
class _Tests:
    """What came of a row's tests: rejections, and the entropies of what was drafted, in nats."""

    tested: float = 0.0
    rejected: float = 0.0
    nats: float = 0.0

    def add(self, rejected: bool, nats: float) -> None:
        self.tested, self.rejected, self.nats = self.tested + 1, self.rejected + rejected, self.nats + nats


@dataclass
class _Row:
    """A row's past, and its choices for the round at hand.

    Attributes:
        tests: of all places together. It starts with what the bundled pair shows, worth some five rounds.
        places: of each place of the blocks.
        entropies: of what its drafts of this round were drawn from.
        path: left of the budget, the positions and the price before each place of this round, and after the last.
    """

    settings: Adaptive
    tests: _Tests = field(default_factory=lambda: _Tests(8.0, 3.0, 20.0))
    places: defaultdict[int, _Tests] = field(default_factory=lambda: defaultdict(_Tests))
    tokens: int = 0
    cost: float = 0.0
    entropies: list[float] = field(default_factory=list)
    stopped: bool = False
    survival: float = 1.0
    path: list[tuple[float, int, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        budget = self.settings.budget
        if budget is not None:  # a position cannot spend more than 1
            binds = budget < self.settings.horizon
            self.path = [(budget, 0, _PRICE if binds else 0.0)]

    def _rejections(self, place: int) -> tuple[float, float]:
        """At this place: a test, and a nat. Few tests of it count little beside those of all places."""
        here, every = self.places[place], self.tests
        rejected = here.rejected + _WEIGHT * every.rejected / every.tested
        return rejected / (here.tested + _WEIGHT), rejected / (here.nats + _WEIGHT * every.nats / every.tested)

    def goes_on(self, entropy: float) -> bool:
        if self.stopped:
            return False
        costs, place = self.settings, len(self.entropies)
        self.entropies.append(entropy)
        self.survival *= max(0.0, 1 - self._rejections(place)[1] * entropy)
        gain = self.survival * (1 - self._rejections(place + 1)[0])
        rate = self.tokens / self.cost if self.cost else 0.0
        self.stopped = place + 1 >= costs.least and gain < rate * (costs.draft_cost + costs.position_cost)
        return not self.stopped

    def choose(self, gamma: int, last: int, offer: Callable[[int, int], tuple[float, float]]) -> list[int]:
        """A level for each place of the block.

        Args:
            last: the level of exact.
            offer: (level, place) -> what it keeps beyond exact there, and its law's distance.
        """
        chosen = [last] * gamma
        for place in range(len(self.entropies)):
            left, positions, price = self.path[-1]
            spent = 0.0
            for level in range(last if left > 0 else 0):
                gain, distance = offer(level, place)
                if distance <= left and gain >= price * distance:
                    chosen[place], spent = level, distance
                    break
            left, positions = left - spent, positions + 1
            fair = left / max(self.settings.horizon - positions, 10)
            self.path.append((left, positions, min(max(price + _STEP * (spent - fair), 0.0), 1.0)))
        return chosen

    def learn(self, accepted: int) -> None:
        """Ends the round. Nothing is learnt of places behind the first rejection: other rounds say what is there."""
        costs, drafted = self.settings, len(self.entropies)
        tested = min(accepted + 1, drafted)
        for place, entropy in enumerate(self.entropies[:tested]):
            for seen in (self.tests, self.places[place]):
                seen.add(place == accepted, entropy)
        self.tokens += accepted + 1
        self.cost += 1 + costs.loop_cost + drafted * (costs.draft_cost + costs.position_cost)
        self.path = self.path[tested : tested + 1]
        self.entropies, self.stopped, self.survival = [], False, 1.0
