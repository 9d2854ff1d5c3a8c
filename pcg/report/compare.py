"""Runs beside each other: paired differences on the utterances that they share, and which figure is best.

The interval of a paired difference covers zero more often than two runs' own intervals overlap: what makes an utterance
hard is in both runs and cancels. So differences decide. The marks in the table compare the runs' own intervals, and
are therefore few.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pcg.metrics.aggregate import Estimate, estimate, paired_difference
from pcg.report.seeds import ACCEPTANCE, TIMES, Method
from pcg.results.figures import measured
from pcg.results.rows import shared_columns

Estimates = Mapping[str, Estimate]  # by figure
Ratios = Mapping[str, tuple[str, str | None]]  # by figure, the columns of utterances.parquet that it is a ratio of


def exact_twin(method: Method, methods: Sequence[Method]) -> Method | None:
    """The method that differs from this one only in its rule, which is ``exact``."""

    def rest(of: Method) -> dict[str, Any]:
        return {key: value for key, value in of.values["config"].items() if key != "grouping"}

    return next((other for other in methods if other.values["method"] == "exact" and rest(other) == rest(method)), None)


def against_exact(method: Method, methods: Sequence[Method]) -> Estimates:
    """Alpha, tau and quality of this method minus its exact twin's; the speed-up as a ratio. Empty without a twin."""
    twin = exact_twin(method, methods)
    if twin is None or method.values["method"] == "exact":
        return {}
    speed = _speed_ratio(method, twin)
    return differences(method, twin, ACCEPTANCE | _ratios(method)) | ({} if speed is None else {"speedup": speed})


def differences(method: Method, other: Method, ratios: Ratios) -> dict[str, Estimate]:
    """Each figure of one method minus the other's, on the utterances (and seeds) that both have."""
    return _paired({
        name: shared_columns([method.rows, other.rows], [names, names]) for name, names in ratios.items()
    })  # fmt: skip


def difference(method: Method, other: Method, key: str) -> Estimate | None:
    """One figure of a method minus the other's, or the ratio of speed-ups; None if they share no utterances with it."""
    if key == "speedup":
        return _speed_ratio(method, other)
    names = (ACCEPTANCE | _ratios(method)).get(key)
    return None if names is None else differences(method, other, {key: names}).get(key)


def against_target(method: Method) -> Estimates:
    """Quality of this method minus the target alone's on the same prompts; empty if that was not decoded beside it."""
    return _paired({
        name: shared_columns([method.rows], [[top, bottom, f"baseline_{top}", bottom and f"baseline_{bottom}"]])
        for name, (top, bottom) in _ratios(method).items()
    })  # fmt: skip


def _paired(columns: Mapping[str, Sequence[np.ndarray] | None]) -> dict[str, Estimate]:
    """The first ratio minus the second of each figure whose columns are known."""
    return {
        name: paired_difference((ratios[0], ratios[1]), (ratios[2], ratios[3]))
        for name, ratios in columns.items()
        if ratios is not None
    }


def pairs(methods: Sequence[Method]) -> list[tuple[int, int, Estimates]]:
    """Differences in quality of every two methods that share utterances: the indices of both, and the first minus the
    second."""
    compared = [
        (first, second, differences(methods[first], methods[second], _ratios(methods[first])))
        for first, second in itertools.combinations(range(len(methods)), 2)
    ]
    return [pair for pair in compared if pair[2]]


def _speed_ratio(method: Method, twin: Method) -> Estimate | None:
    """Speed-up over speed-up. Each is against the target alone in its own process, so that other load on the machine
    cancels."""
    columns = shared_columns([method.batches, twin.batches], [TIMES, TIMES])
    if columns is None:
        return None
    return estimate(
        columns, lambda t, n, at, an, et, en, eat, ean: ((at / an) / (t / n)) / ((eat / ean) / (et / en))
    )  # fmt: skip


def _ratios(method: Method) -> dict[str, tuple[str, str | None]]:
    """The quality figures that the method has."""
    return {key: figure.ratio for key, figure in measured([method.values]).items() if figure.ratio is not None}


def ranks(spans: Sequence[tuple[float, float, float] | None], higher_is_better: bool) -> list[int]:
    """1 for the best and 2 for the second best of a column, 0 for the others.

    The best is marked only if its interval is clear of every other's. The second is marked only if the best is, and if
    its interval is clear of all that are worse, of which there must be one. An interval of width 0 says nothing about
    the spread and gets no mark.

    Args:
        spans: (low, value, high) of each run; None where the figure was not measured.
    """
    marked = [0] * len(spans)
    known = [(index, span) for index, span in enumerate(spans) if span is not None]
    known.sort(key=lambda item: item[1][1], reverse=higher_is_better)
    for rank, (index, (low, _, high)) in enumerate(known[:2], start=1):
        worse = [span for _, span in known[rank:]]
        clear = all(low > other[2] if higher_is_better else high < other[0] for other in worse)
        if not worse or not clear or low == high:
            break
        marked[index] = rank
    return marked
