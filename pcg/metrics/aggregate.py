"""Figures of a run with 95 % intervals, from columns with one value for each utterance.

Every figure is a function of column sums: WER is ``sum(word_errors) / sum(words)``, tau is
``sum(emitted) / sum(target_passes)``, a mean is ``sum(column) / count``, a speed-up a ratio of two such ratios. So one
bootstrap serves all figures: draw utterances with replacement, sum the columns, apply the function (Efron and
Tibshirani 1993, percentile interval). Whole utterances are drawn, so two systems on the same utterances are compared
pair by pair, and an utterance keeps all of its seeds.

Two departures from the percentile interval, both derived in docs/results.md (Intervals):

- Its ends are moved away from the figure by a factor: for few utterances as Student's interval is wider than the normal
  one, and for several seeds by the seeds' share of the variance (two-way variance components).
- If all utterances have the same share, every resample has it too. Then a share of 0 or 1 gets the exact binomial
  interval with utterances as trials, and any other figure none.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, stdtrit

RESAMPLES = 2000
_BLOCK = 250  # resamples held at once, so that thousands of utterances take little memory
_KEPT = 2_000_000  # draws up to this size are kept for the next figure
_NORMAL = 1.959963984540054  # half-width of the percentile interval of a normal distribution, in standard errors
_SAME = 1e-9  # draws that differ by less than this share of the figure count as equal

Column = ArrayLike  # (utterances), or (utterances, seeds)
Ratio = tuple[Column, Column | None]


@dataclass(frozen=True)
class Spread:
    """The variation of a figure over utterances and seeds: mean squares of the two-way analysis of variance.

    Attributes:
        of_utterances: between utterances, each with all of its seeds.
        of_seeds: between seeds, each with all utterances; 0 with one seed.
        of_rest: the remainder; 0 with one seed.
    """

    utterances: int
    seeds: int
    of_utterances: float
    of_seeds: float = 0.0
    of_rest: float = 0.0

    @property
    def standard_error(self) -> float:
        """The standard error of the figure. The two mean squares are added; each contains the remainder once."""
        return math.sqrt((self.of_utterances + self.of_seeds) / (self.utterances * self.seeds))

    @property
    def freedom(self) -> float:
        """The degrees of freedom of the standard error (Satterthwaite 1946)."""
        squares = self.of_utterances**2 / (self.utterances - 1)
        squares += self.of_seeds**2 / (self.seeds - 1) if self.seeds > 1 else 0.0
        return (self.of_utterances + self.of_seeds) ** 2 / squares

    @property
    def detectable(self) -> float:
        """For a difference: the smallest true value that a test at 5 % finds with probability .8."""
        return self._reach * self.standard_error

    def utterances_for(self, difference: float, seeds: int) -> int | None:
        """The number of utterances, with this many seeds, that makes ``difference`` detectable; None if none does."""
        rest = min(self.of_rest, self.of_utterances)
        utterance = (self.of_utterances - rest) / self.seeds
        seed = max(self.of_seeds - self.of_rest, 0.0) / self.utterances
        left = (difference / self._reach) ** 2 - seed / seeds
        return math.ceil((utterance + rest / seeds) / left) if left > 0 else None

    @property
    def _reach(self) -> float:
        return float(stdtrit(self.freedom, 0.975) + stdtrit(self.freedom, 0.8))


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: over all utterances; None if the denominator is zero.
        ci95: [low, high]; None if the spread is unknown: for one utterance, or if all have the same value.
        spread: the components of the interval's width; None if unknown.
    """

    value: float | None
    ci95: tuple[float, float] | None
    spread: Spread | None = None

    def named(self, name: str) -> dict[str, Any]:
        """Value and interval as JSON files hold them: ``{name: value, name_ci95: [low, high]}``."""
        return {name: self.value, f"{name}_ci95": None if self.ci95 is None else list(self.ci95)}


def estimate(
    columns: Sequence[Column], figure: Callable[..., np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """``figure(*sums)`` of per-utterance columns with its bootstrap interval.

    Args:
        columns: each of shape (utterances,), or (utterances, seeds) for several seeds of a run.
        figure: elementwise on arrays, one for the sum of each column. Resamples in which it divides by zero are left
            out.

    Raises:
        ValueError: columns differ in shape or are empty.
    """
    shapes = {np.asarray(column).shape for column in columns}
    if any(0 in shape for shape in shapes):
        raise ValueError("there are no utterances")
    if len(shapes) != 1:
        raise ValueError(f"the columns have different lengths: {sorted(shapes)}")
    cells = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=-1)
    cells = cells[:, None] if cells.ndim == 2 else cells  # (utterances, seeds, columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure(*cells.sum((0, 1))))
        draws = figure(*_resampled_sums(cells.sum(1), seed, resamples).T) if len(cells) > 1 else np.empty(0)
        spread = _spread(cells, figure, value) if len(cells) > 1 and math.isfinite(value) else None
    draws = draws[np.isfinite(draws)]
    if spread is None or not len(draws) or np.ptp(draws) <= _SAME * abs(value):
        return Estimate(value if math.isfinite(value) else None, None)
    low, high = np.quantile(draws, [0.025, 0.975])
    factor = _factor(spread)
    return Estimate(value, (value - factor * (value - float(low)), value + factor * (float(high) - value)), spread)


def _resampled_sums(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Column sums over utterances drawn with replacement: (utterances, columns) -> (resamples, columns)."""
    count = len(values)
    drawn = _kept_draws(count, seed, resamples) if count * resamples <= _KEPT else _draws(count, seed, resamples)
    return np.concatenate([times @ values for times in drawn])


def _draws(count: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    """How often each of ``count`` utterances is drawn, in arrays of (some resamples, count)."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, _BLOCK):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(_BLOCK, resamples - start)).astype(np.float64)


@functools.lru_cache(maxsize=4)
def _kept_draws(count: int, seed: int, resamples: int) -> tuple[np.ndarray, ...]:
    """The draws of a number of utterances, kept because a report has hundreds of figures of the same utterances."""
    return tuple(_draws(count, seed, resamples))


def _factor(spread: Spread) -> float:
    """The factor that widens the interval over utterances, for their number, for seeds and by Student's t.

    A bootstrap underestimates a variance over n utterances by (n - 1) / n.
    """
    count = spread.utterances
    seeds = (spread.of_utterances + spread.of_seeds) / spread.of_utterances
    return math.sqrt(count / (count - 1) * seeds) * float(stdtrit(spread.freedom, 0.975)) / _NORMAL


def _spread(cells: np.ndarray, figure: Callable[..., np.ndarray], value: float) -> Spread | None:
    """The spread of the linearised figure; None if all utterances are equal."""
    utterances, seeds, _ = cells.shape
    influence = cells @ _gradient(cells.sum((0, 1)), figure) * (utterances * seeds)
    influence -= influence.mean()
    rows, runs = influence.mean(1), influence.mean(0)
    of_utterances = seeds * float(rows @ rows) / (utterances - 1)
    if not of_utterances > (_SAME * abs(value)) ** 2:
        return None
    if seeds == 1:
        return Spread(utterances, 1, of_utterances)
    rest = influence - rows[:, None] - runs
    return Spread(
        utterances,
        seeds,
        of_utterances,
        of_seeds=utterances * float(runs @ runs) / (seeds - 1),
        of_rest=float((rest**2).sum()) / ((utterances - 1) * (seeds - 1)),
    )


def _gradient(sums: np.ndarray, figure: Callable[..., np.ndarray]) -> np.ndarray:
    """The gradient of the figure in the columns' sums, by central differences."""
    steps = np.where(sums == 0, 1.0, np.abs(sums)) * 1e-5
    return np.array(
        [float(figure(*(sums + step)) - figure(*(sums - step))) / (2 * step.sum()) for step in np.diag(steps)]
    )


def ratio(numerator: Column, denominator: Column | None = None, *, share: bool = False) -> Estimate:
    """The ratio of sums, or the mean over utterances without a denominator.

    The interval does not go below 0 if no numerator does.

    Args:
        share: the numerator is a part of the denominator. Then the interval does not go above 1, and it is the binomial
            one if all utterances have a share of 0, or all of 1.
    """
    result = estimate(_pair((numerator, denominator)), np.divide)
    if denominator is None or result.value is None:
        return result
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    floor = 0.0 if (top >= 0).all() else -math.inf
    ceiling = 1.0 if share and floor == 0 and (top <= bottom).all() else math.inf
    if result.ci95 is None:
        whole = ceiling == 1 and len(top) > 1 and result.value in (0.0, 1.0)
        return Estimate(result.value, binomial(int(result.value) * len(top), len(top)) if whole else None)
    return Estimate(result.value, (max(result.ci95[0], floor), min(result.ci95[1], ceiling)), result.spread)


def binomial(successes: int, trials: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of independent trials (Clopper and Pearson 1934)."""
    low = float(betaincinv(successes, trials - successes + 1, 0.025)) if successes else 0.0
    high = float(betaincinv(successes + 1, trials - successes, 0.975)) if successes < trials else 1.0
    return low, high


def paired_difference(a: Ratio, b: Ratio) -> Estimate:
    """``a - b`` of two ratios of sums over the same utterances in the same order."""
    return estimate([*_pair(a), *_pair(b)], lambda an, ad, bn, bd: an / ad - bn / bd)


def paired_ratio(a: Ratio, b: Ratio) -> Estimate:
    """``a / b`` of two ratios of sums over the same utterances in the same order: a speed-up."""
    return estimate([*_pair(a), *_pair(b)], lambda an, ad, bn, bd: (an / ad) / (bn / bd))


def _pair(of: Ratio) -> list[Column]:
    numerator, denominator = of
    return [numerator, np.ones(np.asarray(numerator).shape) if denominator is None else denominator]
