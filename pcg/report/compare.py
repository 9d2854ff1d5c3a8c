"""Runs beside each other: differences pair by pair on the utterances that they share, and which figure is best.

An interval of a difference covers zero more often than the two runs' own intervals overlap: what makes an utterance
hard is the same in both runs and goes out of the difference. So differences are what decides, and marks in the table,
which only compare the runs' own intervals, are sparing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.metrics.aggregate import Estimate, estimate, paired_difference
from pcg.report import bridge
from pcg.results import store
from pcg.results.figures import measured
from pcg.types import Result

Estimates = Mapping[str, Estimate]
Row = Mapping[str, Any]
_ACCEPTANCE = {"alpha": ("accepted", "tested"), "tau": ("emitted", "target_passes")}


def exact_twin(result: Result, results: Sequence[Result]) -> Result | None:
    """The run that differs from this one in nothing but that its rule is ``exact``."""

    def rest(run: Result) -> dict[str, Any]:
        return {key: value for key, value in run.values["config"].items() if key != "grouping"}

    return next((run for run in results if run.values["method"] == "exact" and rest(run) == rest(result)), None)


def against_exact(result: Result, results: Sequence[Result]) -> Estimates:
    """This run minus its exact twin: alpha, tau, quality; the speed-up as a ratio. Empty where there is no twin."""
    twin = exact_twin(result, results)
    if twin is None or result.values["method"] == "exact":
        return {}
    theirs = {row["utterance"]: row for row in _good(twin)}
    pairs = [(row, theirs[row["utterance"]]) for row in _good(result) if row["utterance"] in theirs]
    found = {}
    for name, (top, bottom) in {**_ACCEPTANCE, **_ratios(result)}.items():
        both = [pair for pair in pairs if all(row.get(top) is not None for row in pair)]
        if both:
            own, other = ((_column(side, top), _column(side, bottom)) for side in zip(*both, strict=True))
            found[name] = paired_difference(own, other)
    speed = _speed_ratio(Path(result.folder), Path(twin.folder))
    return found | ({} if speed is None else {"speedup": speed})


def against_target(result: Result) -> Estimates:
    """Quality of this run minus that of the target alone, on the same prompts. Empty where it was not decoded alone."""
    found = {}
    rows = _good(result)
    for name, (top, bottom) in _ratios(result).items():
        scored = [row for row in rows if row.get(f"baseline_{top}") is not None]
        if scored:
            ours, alone = (
                (_column(scored, prefix + top), _column(scored, bottom and prefix + bottom))
                for prefix in ("", "baseline_")
            )
            found[name] = paired_difference(ours, alone)
    return found


def _speed_ratio(ours: Path, theirs: Path) -> Estimate | None:
    """Speed-up over speed-up. Each is against the target alone in its own process, which takes out what else the
    machine did then."""
    own, twin = bridge.seconds_by_batch(ours), bridge.seconds_by_batch(theirs)
    shared = sorted(own.keys() & twin.keys())
    if not shared:
        return None
    columns = [
        [side[batch][timed][part] for batch in shared] for side in (own, twin) for timed in (0, 1) for part in (0, 1)
    ]
    return estimate(
        columns, lambda t, n, at, an, et, en, eat, ean: ((at / an) / (t / n)) / ((eat / ean) / (et / en))
    )  # fmt: skip


def _ratios(result: Result) -> dict[str, tuple[str, str | None]]:
    """Of the quality figures that the run has: which columns they are ratios of."""
    return {key: figure.ratio for key, figure in measured([result.values]).items() if figure.ratio is not None}


def _good(result: Result) -> list[Row]:
    return [row for row in store.read_utterances(Path(result.folder)) if row["error"] is None]


def _column(rows: Sequence[Row], name: str | None) -> Any:
    """None stays None: a mean has no denominator."""
    return None if name is None else [row[name] for row in rows]


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
