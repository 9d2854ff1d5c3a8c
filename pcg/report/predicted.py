"""Predictions of the offline study beside what the runs of the same study measured.

A run and an offline point belong together if target, draft, codec (and what lay at their paths), rule, groups and
sampling are the same. They are compared pair by pair on the utterances that both have. docs/studies.md says where they
differ, and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.metrics.aggregate import Estimate, estimate, paired_difference, ratio
from pcg.report.tables import figure
from pcg.results import predictions, store
from pcg.results.records import peek
from pcg.results.timing import Timing, clock_of, timing_of
from pcg.sampling import SAMPLING
from pcg.types import Result

_PARTS = ("target", "draft", "codec")
_FIGURES = ("alpha", "tau", "speed-up")
Row = Mapping[str, Any]


def table(study_folder: Path, labels: Sequence[str], results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, one row for each run with a prediction; none without an offline study.

    Raises:
        ValueError: the offline study was written by another version of its schema.
    """
    header = ["method", *(f"{name}{column}" for name in _FIGURES for column in (" offline", "", " difference"))]
    offline = predictions.read(study_folder)
    if offline is None:
        return header, []
    study, predicted = offline
    rows = []
    for label, result in zip(labels, results, strict=True):
        point, gamma = _point_of(study, result), result.values["config"]["decoding"].get("gamma", 0)
        if point is not None and gamma <= len(point["tau"]):
            by_id = {row["utterance"]: row for row in predicted if row["point"] == point["name"]}
            rows.append([label, *_cells(result, by_id, gamma)])
    return header, rows


def _point_of(study: Mapping[str, Any], result: Result) -> Mapping[str, Any] | None:
    run = result.values["config"]
    same = all(study["config"][part] == run[part] for part in _PARTS)
    if "fingerprints" in study["config"]:  # studies of earlier versions have none
        same &= _models(study["config"]) == _models(run)
    same &= all(study["config"]["decoding"].get(key) == run["decoding"].get(key) for key in SAMPLING)
    same &= study["config"]["decoding"].get("candidates", 1) == run["decoding"].get("candidates", 1)
    # of an earlier version, in which gamma and theta changed from round to round
    same &= "control" not in run["decoding"]
    return next((point for point in study["points"] if same and point["grouping"] == run["grouping"]), None)


def _models(config: Mapping[str, Any]) -> dict[str, str]:
    return {key: digest for key, digest in config["fingerprints"].items() if key.partition(".")[0] in _PARTS}


def _cells(result: Result, predicted: Mapping[str, Row], gamma: int) -> list[str]:
    """Prediction, measurement and difference of each figure."""
    measured = [
        row
        for row in store.read_utterances(Path(result.folder))
        if row["error"] is None and row["utterance"] in predicted
    ]
    if not measured:
        return ["-"] * 3 * len(_FIGURES)
    twins = [predicted[row["utterance"]] for row in measured]
    cells: list[str] = []
    for top, bottom, twin_top, twin_bottom in (
        ("accepted", "tested", f"accepted_{gamma}", f"tested_{gamma}"),
        ("emitted", "target_passes", "positions", f"rounds_{gamma}"),
    ):
        ours = [row[top] for row in measured], [row[bottom] for row in measured]
        theirs = [row[twin_top] for row in twins], [row[twin_bottom] for row in twins]
        cells += [
            _text(ratio(*theirs).value),
            _text(ratio(*ours).value),
            _signed(paired_difference(ours, theirs)),
        ]
    return cells + _speed_cells(result, measured, twins, gamma)


def _speed_cells(result: Result, measured: Sequence[Row], twins: Sequence[Row], gamma: int) -> list[str]:
    """The speed-up that the predicted tau would give at the measured pass times if rule and loop were free, beside the
    measured one. The interval covers the utterances, not the noise of the pass times, which both sides share."""
    speed, tau = result.values["speed"], result.values["acceptance"]["tau"]
    seconds = seconds_by_batch(Path(result.folder))
    if not speed["ideal_speedup"] or any(row["batch"] not in seconds for row in measured):
        return ["-", _text(speed["speedup"]), "-"]
    gain = speed["ideal_speedup"] / tau  # t_target(1) / (gamma t_draft(1) + t_target(gamma + 1))
    batches = sorted({row["batch"] for row in measured})
    own, alone = zip(*(seconds[batch] for batch in batches), strict=True)
    positions, rounds = (
        [
            sum(twin[key] for row, twin in zip(measured, twins, strict=True) if row["batch"] == batch)
            for batch in batches
        ]
        for key in ("positions", f"rounds_{gamma}")
    )
    columns = [*zip(*alone, strict=True), *zip(*own, strict=True), positions, rounds]
    difference = estimate(columns, lambda at, an, t, n, p, r: (at / an) / (t / n) - gain * p / r)
    return [_text(gain * sum(positions) / sum(rounds)), _text(speed["speedup"]), _signed(difference)]


def seconds_by_batch(folder: Path) -> dict[int, tuple[Timing, Timing]]:
    """Timings of the rule and of the target alone, by batch; only batches in which both were timed."""
    records = [record for record in peek(folder / "batches.jsonl") if record["seconds"] and record["baseline_seconds"]]
    clock = clock_of(records)
    return {
        record["batch"]: (timing_of(record, "", clock), timing_of(record, "baseline_", clock)) for record in records
    }


def _text(value: float | None) -> str:
    return figure("{:.3f}", value)


def _signed(difference: Estimate) -> str:
    return figure("{:+.3f}", difference.value, difference.ci95)
