"""Runs beside each other: differences pair by pair on the utterances that they share, and which figure is best.

An interval of a difference covers zero more often than the two runs' own intervals overlap: what makes an utterance
hard is the same in both runs and goes out of the difference. So differences are what decides, and marks in the table,
which only compare the runs' own intervals, are sparing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pcg.metrics.aggregate import Estimate, estimate, paired_difference
from pcg.report.seeds import ACCEPTANCE, TIMES, Method, cells
from pcg.results.figures import measured

Estimates = Mapping[str, Estimate]


def exact_twin(method: Method, methods: Sequence[Method]) -> Method | None:
    """The method that differs from this one in nothing but that its rule is ``exact``."""

    def rest(of: Method) -> dict[str, Any]:
        return {key: value for key, value in of.values["config"].items() if key != "grouping"}

    return next((other for other in methods if other.values["method"] == "exact" and rest(other) == rest(method)), None)


def against_exact(method: Method, methods: Sequence[Method]) -> Estimates:
    """This method minus its exact twin: alpha, tau, quality; the speed-up as a ratio. Empty where there is no twin."""
    twin = exact_twin(method, methods)
    if twin is None or method.values["method"] == "exact":
        return {}
    speed = _speed_ratio(method, twin)
    return differences(method, twin, ACCEPTANCE | _ratios(method)) | ({} if speed is None else {"speedup": speed})


def differences(method: Method, other: Method, ratios: Mapping[str, tuple[str, str | None]]) -> dict[str, Estimate]:
    """One method minus the other, by figure, on the utterances (and seeds) that both have."""
    found = {}
    for name, columns in ratios.items():
        both = cells([method.rows, other.rows], [columns, columns])
        if both is not None:
            found[name] = paired_difference((both[0], both[1]), (both[2], both[3]))
    return found


def difference(method: Method, other: Method, key: str) -> Estimate | None:
    """One figure of a method minus the other's, the speed-up over it; None where they share nothing that it is of."""
    if key == "speedup":
        return _speed_ratio(method, other)
    columns = (ACCEPTANCE | _ratios(method)).get(key)
    return None if columns is None else differences(method, other, {key: columns}).get(key)


def against_target(method: Method) -> Estimates:
    """Quality of this method minus that of the target alone, on the same prompts; empty where that was not decoded."""
    found = {}
    for name, (top, bottom) in _ratios(method).items():
        both = cells([method.rows], [[top, bottom, f"baseline_{top}", bottom and f"baseline_{bottom}"]])
        if both is not None:
            found[name] = paired_difference((both[0], both[1]), (both[2], both[3]))
    return found


def pairs(methods: Sequence[Method]) -> list[tuple[int, int, Estimates]]:
    """The differences in quality of every two methods that share utterances: the first's place, the second's."""
    found = [
        (first, second, differences(methods[first], methods[second], _ratios(methods[first])))
        for first, second in itertools.combinations(range(len(methods)), 2)
    ]
    return [pair for pair in found if pair[2]]


def _speed_ratio(method: Method, twin: Method) -> Estimate | None:
    """Speed-up over speed-up. Each is against the target alone in its own process, which takes out what else the
    machine did then."""
    both = cells([method.batches, twin.batches], [TIMES, TIMES])
    if both is None:
        return None
    return estimate(
        both, lambda t, n, at, an, et, en, eat, ean: ((at / an) / (t / n)) / ((eat / ean) / (et / en))
    )  # fmt: skip


def _ratios(method: Method) -> dict[str, tuple[str, str | None]]:
    """Of the quality figures that the method has: which columns they are ratios of."""
    return {key: figure.ratio for key, figure in measured([method.values]).items() if figure.ratio is not None}


def ranks(spans: Sequence[tuple[float, float, float] | None], higher_is_better: bool) -> list[int]:
    """1 for the best and 2 for the second best of a column, 0 for the others.

    The best is marked only if its interval is clear of every other's; the second only if the best is marked and its
    interval is clear of all below it, of which there must be one. An interval without width says nothing of the spread
    and wins no mark.

    Args:
        spans: (low, value, high) of each run; None where the figure was not measured.
    """
    marked = [0] * len(spans)
    known = [(index, span) for index, span in enumerate(spans) if span is not None]
    known.sort(key=lambda item: item[1][1], reverse=higher_is_better)
    for place, (index, (low, _, high)) in enumerate(known[:2], start=1):
        below = [span for _, span in known[place:]]
        clear = all(low > other[2] if higher_is_better else high < other[0] for other in below)
        if not below or not clear or low == high:
            break
        marked[index] = place
    return marked
