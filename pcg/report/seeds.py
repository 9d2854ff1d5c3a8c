"""Runs of several seeds as one: the sums of all, with intervals over utterances and seeds.

``seed=0,1,2`` in a sweep makes three runs of a method. They differ only in the random numbers, so tables, plots and
comparisons show them as one ``Method``. docs/results.md (Intervals) explains how seeds widen an interval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pcg.metrics.aggregate import Estimate, paired_ratio
from pcg.report import predicted
from pcg.results import store
from pcg.results.figures import measured
from pcg.results.rows import Row, ratio_of, shared_columns
from pcg.results.schema import WAITS, over_utterances
from pcg.types import Result

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
        """Rows of utterances that did not fail, by seed and utterance."""
        return {
            seed: {row["utterance"]: row for row in store.read_utterances(Path(run.folder)) if row["error"] is None}
            for seed, run in zip(self.seeds, self.runs, strict=True)
        }

    @cached_property
    def batches(self) -> dict[int, dict[int, Row]]:
        """Decode seconds and tokens of the method and of the target alone (``TIMES``), by seed and batch."""
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
    return [_method(runs) for runs in by_method.values()]


def _method_config(result: Result) -> dict[str, Any]:
    """The config without what does not make a method: the seed, and where the sound distance is measured."""
    config = {key: value for key, value in result.values["config"].items() if key != "seed"}
    config["decoding"] = {key: value for key, value in config["decoding"].items() if key != "sound_every"}
    return config


def _moved_positions(result: Result) -> int:
    return result.values["distortion"]["moved_positions"] or 0


def _method(by_seed: Mapping[int, Result]) -> Method:
    seeds = sorted(by_seed)
    runs = tuple(by_seed[seed] for seed in seeds)
    first = runs[0]
    method = Method(first.folder, {**first.values, "config": _method_config(first), "seeds": seeds}, runs)
    return method if len(runs) == 1 else Method(first.folder, {**method.values, **_pooled(method)}, runs)


def _pooled(method: Method) -> dict[str, Any]:
    """The values that differ between several runs and the first of them."""
    runs = [run.values for run in method.runs]
    figures = {key: figure for key, figure in measured([method.values]).items() if figure.ratio is not None}
    return {
        "run_id": " ".join(values["run_id"] for values in runs),
        "wall_seconds": sum(values["wall_seconds"] for values in runs),
        "failures": [failure for values in runs for failure in values["failures"]],
        "devices": max(values["devices"] for values in runs),
        **over_utterances(method.rows, method.values["config"], figures),
        "speed": _speed(method),
        "left_out": [entry for values in runs for entry in values["left_out"]],
    }


def _sum(values: Sequence[float | None]) -> float | None:
    """The sum over seeds; None if a seed lacks the figure."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _speed(method: Method) -> dict[str, Any]:
    """Tokens over seconds of all runs; the speed-up paired by batch and seed."""
    speeds = [run.values["speed"] for run in method.runs]
    emitted = [run.values["counts"]["emitted"] for run in method.runs]

    def per_second(key: str) -> float | None:
        rates = [speed[key] for speed in speeds]
        if not all(rates):
            return None
        return sum(emitted) / sum(tokens / rate for tokens, rate in zip(emitted, rates, strict=True))

    audio = [sum(row["audio_seconds"] or 0.0 for row in rows.values()) for rows in method.rows.values()]
    rtf = [speed["rtf"] for speed in speeds]
    rates = ("tokens_per_second", "tokens_per_second_whole", "baseline_tokens_per_second", "ideal_speedup")
    return {
        **speeds[0],
        **{key: per_second(key) for key in rates},
        "rtf": sum(of * seconds for of, seconds in zip(rtf, audio, strict=True)) / sum(audio) if all(rtf) else None,
        **{name: value for key in WAITS for name, value in ratio_of(method.rows, key, None).named(key).items()},
        **(_speedup(method).named("speedup") if speeds[0]["speedup_ci95"] else {}),
        "seconds": {part: _sum([speed["seconds"][part] for speed in speeds]) for part in speeds[0]["seconds"]},
        "peak_memory_bytes": max(speed["peak_memory_bytes"] or 0 for speed in speeds) or None,
    }


def _speedup(method: Method) -> Estimate:
    """Over the batches that all seeds have timed."""
    columns = shared_columns([method.batches], [TIMES])
    if columns is None:
        return Estimate(None, None)
    seconds, tokens, alone_seconds, alone_tokens = columns
    return paired_ratio((alone_seconds, alone_tokens), (seconds, tokens))


def _seeds_with(method: Method, distance: str) -> list[int]:
    """The seeds whose runs measured a distance."""
    pairs = zip(method.seeds, method.runs, strict=True)
    return [seed for seed, run in pairs if run.values["distortion"].get(distance) is not None]


def note_on_single_seeds(methods: Sequence[Method], names: Sequence[str]) -> str:
    """A sentence on rows of one seed; empty where every row has several."""
    single = [name for method, name in zip(methods, names, strict=True) if len(method.seeds) == 1]
    if not single:
        return ""
    which = "Every run" if len(single) == len(methods) else ", ".join(single)
    return (
        f"{which}: one seed. The interval is over utterances and does not cover the difference between seeds; "
        "`seed=0,1,2` in a sweep makes the runs of three seeds one row."
    )


def note_on_distances(methods: Sequence[Method], names: Sequence[str]) -> str:
    """A sentence on rows whose sound distance only some of their seeds measured; empty where there are none."""
    seeds = [_seeds_with(method, "sound") for method in methods]
    partly = [
        f"{name} in {len(some)} of {len(method.seeds)} (seed {', '.join(map(str, some))})"
        for name, method, some in zip(names, methods, seeds, strict=True)
        if 0 < len(some) < len(method.seeds)
    ]
    start = "Not all seeds measured the sound distance; it is the mean of those that did: "
    return f"{start}{'; '.join(partly)}." if partly else ""
