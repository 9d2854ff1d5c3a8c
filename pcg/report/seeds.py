"""Runs of several seeds as one: the sums of all, with intervals over utterances and seeds.

``seed=0,1,2`` in a sweep makes three runs of a method. They differ in nothing but the random numbers, so that the
table, plots and comparisons show them as one ``Method``. How seeds widen an interval is told in docs/results.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pcg.metrics.aggregate import Estimate, paired_ratio, ratio
from pcg.report import predicted
from pcg.results import store
from pcg.results.figures import measured
from pcg.results.schema import MOVED, WAITS
from pcg.types import Result

Row = Mapping[str, Any]
Cells = list[np.ndarray]  # columns, each (utterances, seeds)
TIMES = ("seconds", "tokens", "alone_seconds", "alone_tokens")
ACCEPTANCE = {"alpha": ("accepted", "tested"), "tau": ("emitted", "target_passes")}


@dataclass(frozen=True)
class Method(Result):
    """A result, or several that differ in their seed alone.

    ``values`` are those of a result with a list ``seeds``; its config lacks what does not make a method (``seed``,
    ``decoding.sound_every``). ``folder`` is the first run's.

    Attributes:
        runs: one a seed, in the seeds' order.
    """

    runs: tuple[Result, ...]

    @property
    def seeds(self) -> list[int]:
        return list(self.values["seeds"])

    @cached_property
    def rows(self) -> dict[int, dict[str, Row]]:
        """By seed and utterance, of those that did not fail."""
        return {
            seed: {row["utterance"]: row for row in store.read_utterances(Path(run.folder)) if row["error"] is None}
            for seed, run in zip(self.seeds, self.runs, strict=True)
        }

    @cached_property
    def batches(self) -> dict[int, dict[int, Row]]:
        """By seed and batch, decode seconds and tokens of the method and of the target alone (``TIMES``)."""
        return {
            seed: {
                batch: dict(zip(TIMES, (*own, *alone), strict=True))
                for batch, (own, alone) in predicted.seconds_by_batch(Path(run.folder)).items()
            }
            for seed, run in zip(self.seeds, self.runs, strict=True)
        }


def methods(results: Sequence[Result]) -> list[Method]:
    """Runs of a study whose configs make the same method, one a seed, as one; in the order of the first of each.

    Of several runs of one seed, which say the same tokens, the one that measured the sound distance most often stays.
    """
    by_method: dict[str, dict[int, Result]] = {}
    for result in results:
        key = json.dumps([result.values["study"], _method_config(result)], sort_keys=True)
        runs, seed = by_method.setdefault(key, {}), result.values["config"].get("seed", 0)
        if seed not in runs or _moved_positions(result) > _moved_positions(runs[seed]):
            runs[seed] = result
    return [_method([runs[seed] for seed in sorted(runs)]) for runs in by_method.values()]


def _method_config(result: Result) -> dict[str, Any]:
    """The config without what does not make a method: the seed, and where the sound distance is measured."""
    config = {key: value for key, value in result.values["config"].items() if key != "seed"}
    config["decoding"] = {key: value for key, value in config["decoding"].items() if key != "sound_every"}
    return config


def _moved_positions(result: Result) -> int:
    return result.values["distortion"]["moved_positions"] or 0


def _method(runs: Sequence[Result]) -> Method:
    first = runs[0]
    seeds = [run.values["config"].get("seed", 0) for run in runs]
    one = Method(first.folder, {**first.values, "config": _method_config(first), "seeds": seeds}, tuple(runs))
    return one if len(runs) == 1 else Method(first.folder, {**one.values, **_pooled(one)}, tuple(runs))


def cells(sides: Sequence[Mapping[int, Mapping[Any, Row]]], columns: Sequence[Sequence[str | None]]) -> Cells | None:
    """Columns of one or two methods on the utterances that all of their seeds have, one array a side's column.

    Two methods are paired by utterance and seed where they share seeds; else by utterance, each with all of its seeds.

    Args:
        sides: rows by seed and utterance, of each method.
        columns: names of each side's columns; None is a column of ones.
    """
    shared = set.intersection(*(set(side) for side in sides))
    kept = [[side[seed] for seed in sorted(shared or side)] for side in sides]

    def has(name: Any) -> bool:
        return all(_has(rows.get(name), of) for side, of in zip(kept, columns, strict=True) for rows in side)

    names = [name for name in kept[0][0] if has(name)]
    if not names:
        return None
    found = [
        np.array([[1.0 if column is None else rows[name][column] for rows in side] for name in names], dtype=np.float64)
        for side, of in zip(kept, columns, strict=True)
        for column in of
    ]
    return found if shared else [column.sum(1) for column in found]


def _has(row: Row | None, columns: Sequence[str | None]) -> bool:
    return row is not None and all(column is None or row.get(column) is not None for column in columns)


def _pooled(method: Method) -> dict[str, Any]:
    """What is another for several runs than for the first of them."""
    every = [run.values for run in method.runs]
    return {
        "run_id": " ".join(values["run_id"] for values in every),
        "wall_seconds": sum(values["wall_seconds"] for values in every),
        "failures": [failure for values in every for failure in values["failures"]],
        "devices": max(values["devices"] for values in every),
        "counts": _sums([values["counts"] for values in every]),
        "acceptance": {
            **_figure(method, "alpha", *ACCEPTANCE["alpha"], share=True),
            **_figure(method, "tau", *ACCEPTANCE["tau"]),
            "alpha_exact": _mean(every, "acceptance", "alpha_exact", "tested"),
            "alpha_by_slot": _by_slot(every),
        },
        "speed": _speed(method, every),
        "distortion": _distortion(method, every),
        "quality": _quality(method),
        "left_out": [told for values in every for told in values["left_out"]],
    }


def _sums(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of each count; None where a run has none."""

    def total(column: Sequence[Any]) -> Any:
        if any(value is None for value in column):
            return None
        return [sum(parts) for parts in zip(*column, strict=True)] if isinstance(column[0], list) else sum(column)

    return {key: total([values[key] for values in counts]) for key in counts[0]}


def _mean(every: Sequence[Mapping[str, Any]], group: str, key: str, weight: str) -> float | None:
    """A ratio of sums from the runs' own ratios, weighed by the count that is its denominator."""
    found = [(values[group].get(key), values["counts"][weight]) for values in every]
    if any(value is None for value, _ in found) or not sum(count for _, count in found):
        return None
    return sum(value * count for value, count in found) / sum(count for _, count in found)


def _by_slot(every: Sequence[Mapping[str, Any]]) -> list[float | None] | None:
    """Of each slot the runs' mean: each has about as many tokens of it."""
    known = [values["acceptance"].get("alpha_by_slot") for values in every]
    if not all(known):
        return None
    return [None if None in slot else sum(slot) / len(slot) for slot in zip(*known, strict=True)]


def _speed(method: Method, every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tokens over seconds of all runs; the speed-up paired by batch and seed."""
    speeds, emitted = [values["speed"] for values in every], [values["counts"]["emitted"] for values in every]

    def per_second(key: str) -> float | None:
        rates = [speed[key] for speed in speeds]
        return (
            sum(emitted) / sum(tokens / rate for tokens, rate in zip(emitted, rates, strict=True))
            if all(rates)
            else None
        )

    audio = [sum(row["audio_seconds"] or 0.0 for row in rows.values()) for rows in method.rows.values()]
    rtf = [speed["rtf"] for speed in speeds]
    rates = ("tokens_per_second", "tokens_per_second_whole", "baseline_tokens_per_second", "ideal_speedup")
    return {
        **speeds[0],
        **{key: per_second(key) for key in rates},
        "rtf": sum(of * seconds for of, seconds in zip(rtf, audio, strict=True)) / sum(audio) if all(rtf) else None,
        **{key: _over_seeds(speeds, key) for key in WAITS},
        **{f"{key}_ci95": speeds[0][f"{key}_ci95"] if len(speeds) == 1 else None for key in WAITS},
        **(_named("speedup", _speedup(method)) if speeds[0]["speedup_ci95"] else {}),
        "seconds": _sums([speed["seconds"] for speed in speeds]),
        "peak_memory_bytes": max((speed["peak_memory_bytes"] or 0 for speed in speeds), default=0) or None,
    }


def _over_seeds(speeds: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The mean of a figure that is a mean over the same utterances in every seed."""
    values = [speed[key] for speed in speeds]
    return None if None in values else sum(values) / len(values)


def _speedup(method: Method) -> Estimate:
    """Over batches, each with all seeds; a batch that some seed did not time is left out."""
    found = cells([method.batches], [TIMES])
    if found is None:
        return Estimate(None, None)
    seconds, tokens, alone_seconds, alone_tokens = found
    return paired_ratio((alone_seconds, alone_tokens), (seconds, tokens))


def _distortion(method: Method, every: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the tested positions of all runs; of the earth mover's distances, over the positions at which the runs
    that have them measured them."""
    pooled: dict[str, Any] = {
        key: _mean(every, "distortion", key, "tested") for key in every[0]["distortion"] if key not in MOVED
    }
    pooled |= dict.fromkeys(MOVED) | {"moved_positions": sum(map(_moved_positions, method.runs)) or None}
    for key in ("sound", "sound_rest", "embedding", "embedding_rest"):
        measured_in = {seed: method.rows[seed] for seed in _seeds_with(method, key)}
        if measured_in:
            found = _ratio_of(measured_in, key, f"sum_{key}", "sum_moved_positions")
            pooled |= {name: value for name, value in found.items() if name in MOVED}
    return pooled


def _seeds_with(method: Method, distance: str) -> list[int]:
    """The seeds whose runs have measured a distance."""
    pairs = zip(method.seeds, method.runs, strict=True)
    return [seed for seed, run in pairs if run.values["distortion"].get(distance) is not None]


def _quality(method: Method) -> dict[str, Any]:
    """Of the runs' audio, and of the target's alone beside them."""
    found: dict[str, Any] = {}
    for prefix in ("", "baseline_"):
        for key, figure in measured([method.values]).items():
            if f"{prefix}{key}" in method.values["quality"] and figure.ratio is not None:
                top, bottom = figure.ratio
                columns = prefix + top, bottom and prefix + bottom
                found |= _figure(method, prefix + key, *columns, share=figure.is_share)
    return found


def _figure(method: Method, name: str, top: str, bottom: str | None, share: bool = False) -> dict[str, Any]:
    return _ratio_of(method.rows, name, top, bottom, share)


def _ratio_of(
    rows: Mapping[int, Mapping[str, Row]], name: str, top: str, bottom: str | None, share: bool = False
) -> dict[str, Any]:
    """The ratio of two columns' sums over the utterances that all seeds have, with its interval."""
    found = cells([rows], [[top, bottom]])
    return _named(name, Estimate(None, None) if found is None else ratio(found[0], found[1], share=share))


def _named(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value, f"{name}_ci95": None if found.ci95 is None else list(found.ci95)}


def note(every: Sequence[Method], named: Sequence[str]) -> str:
    """Which rows are of one seed; nothing where none is."""
    single = [name for method, name in zip(every, named, strict=True) if len(method.seeds) == 1]
    if not single:
        return ""
    which = "Every run" if len(single) == len(every) else ", ".join(single)
    return (
        f"{which}: one seed. Its interval is over utterances and tells nothing of what another seed would have said; "
        "`seed=0,1,2` in a sweep makes runs of three seeds one row."
    )


def note_on_distances(every: Sequence[Method], named: Sequence[str]) -> str:
    """Which rows have a sound distance that only some of their seeds have measured; nothing where none has."""
    partly = [
        f"{name} in {len(measured_in)} of {len(method.seeds)} (seed {', '.join(map(str, measured_in))})"
        for method, name in zip(every, named, strict=True)
        if 0 < len(measured_in := _seeds_with(method, "sound")) < len(method.seeds)
    ]
    return (
        f"Not all seeds measured the sound distance; it is the mean of those that did: {'; '.join(partly)}."
        if partly
        else ""
    )
