"""Per-utterance columns -> figures of a run, with 95 % intervals.

Every figure is a function of column sums: WER is ``sum(word_errors) / sum(words)``, tau is
``sum(emitted) / sum(target_passes)``, a mean is ``sum(column) / count``, a speed-up a ratio of two such ratios.
So one bootstrap serves all: draw utterances with replacement, sum the columns, apply the function
(Efron and Tibshirani 1993, percentile interval). Drawing whole utterances keeps what belongs together, so
two systems measured on the same utterances are compared pair by pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pcg.types import Figure

RESAMPLES = 2000
_BLOCK = 250  # resamples held at once, so that memory stays small for thousands of utterances

Column = ArrayLike
Ratio = tuple[Column, Column | None]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: over all utterances; None where the denominator is zero.
        ci95: [low, high]; None for fewer than two utterances, which say nothing about their spread.
    """

    value: float | None
    ci95: tuple[float, float] | None


def estimate(
    columns: Sequence[Column], figure: Callable[..., np.ndarray], seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """``figure(*sums)`` of per-utterance columns, each of shape (utterances,), with its bootstrap interval.

    Args:
        figure: elementwise on arrays, one for the sum of each column. It may divide by zero: such resamples
            are left out.

    Raises:
        ValueError: columns of different lengths, or empty ones.
    """
    lengths = {len(np.asarray(column)) for column in columns}
    if lengths == {0}:
        raise ValueError("no utterances to take a figure of")
    if len(lengths) != 1:
        raise ValueError(f"columns of different lengths: {sorted(lengths)}")
    values = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)  # (utterances, columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure(*values.sum(0)))
        draws = figure(*_resampled_sums(values, seed, resamples).T) if len(values) > 1 else np.empty(0)
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (math.nan, math.nan)
    return Estimate(
        value=value if math.isfinite(value) else None, ci95=(float(low), float(high)) if len(draws) else None
    )


def _resampled_sums(values: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Column sums over utterances drawn with replacement: (utterances, columns) -> (resamples, columns)."""
    rng, count = np.random.default_rng(seed), len(values)
    blocks = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    return np.concatenate([rng.multinomial(count, np.full(count, 1 / count), size=b) @ values for b in blocks])


def ratio(numerator: Column, denominator: Column | None = None, seed: int = 0) -> Estimate:
    """Ratio of sums, or the mean over utterances without a denominator."""
    return estimate(_pair((numerator, denominator)), np.divide, seed)


def paired_difference(a: Ratio, b: Ratio, seed: int = 0) -> Estimate:
    """a minus b, two ratios of sums over the same utterances in the same order."""
    return estimate([*_pair(a), *_pair(b)], lambda an, ad, bn, bd: an / ad - bn / bd, seed)


def paired_ratio(a: Ratio, b: Ratio, seed: int = 0) -> Estimate:
    """a over b, two ratios of sums over the same utterances in the same order: a speed-up."""
    return estimate([*_pair(a), *_pair(b)], lambda an, ad, bn, bd: (an / ad) / (bn / bd), seed)


def figures(
    rows: Sequence[Mapping[str, float | str | None]], declared: Mapping[str, Figure], seed: int = 0
) -> dict[str, Estimate]:
    """Each of a metric's figures over rows of columns, one an utterance; rows whose numerator is None are left out.

    Raises:
        KeyError: a row lacks a column.
    """
    return {
        name: _figure([row for row in rows if row[figure.columns[0]] is not None], *figure.columns, seed)
        for name, figure in declared.items()
    }


def _figure(rows: Sequence[Mapping[str, Any]], top: str, bottom: str | None, seed: int) -> Estimate:
    if not rows:
        return Estimate(None, None)
    return ratio([row[top] for row in rows], None if bottom is None else [row[bottom] for row in rows], seed)


def _pair(of: Ratio) -> list[Column]:
    numerator, denominator = of
    return [numerator, np.ones(len(np.asarray(numerator))) if denominator is None else denominator]
