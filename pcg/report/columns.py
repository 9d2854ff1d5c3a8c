"""What a study's table shows of its runs: figures, which is best, differences to exact and to the target alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pcg.report import compare
from pcg.report.names import labels, run_names
from pcg.report.seeds import Method
from pcg.report.tables import cell
from pcg.results.figures import FIGURES, measured
from pcg.types import Figure, Result

ENOUGH = 0.015  # a difference of WER that would matter: 1.5 points
Paired = Sequence[tuple[compare.Estimates, compare.Estimates]]  # of each run: against exact, against the target alone
Table = tuple[list[str], list[list[str]]]  # header and cells
# Shown of every study; quality comes after, as far as measured.
_ALWAYS = (
    "acceptance.alpha", "acceptance.tau", "speed.tokens_per_second", "speed.speedup", "speed.ideal_speedup",
    "speed.rtf",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One figure of all runs.

    Attributes:
        path: in result.json.
        values, intervals: of each run; None where not measured.
    """

    path: str
    figure: Figure
    values: Sequence[float | None]
    intervals: Sequence[Sequence[float] | None]


def columns_of(results: Sequence[Result]) -> list[Column]:
    """The figures of a study's table.

    Empty generations and distances are shown where some run has them, tokens/s with prefill where an engine decoded,
    the waits of a listener where some run set ``decoding.chunk``.
    """
    values = [result.values for result in results]
    paths = list(_ALWAYS)
    if any(run["engine"]["name"] != "own" for run in values):
        paths.append("speed.tokens_per_second_whole")
    if any(item.lstrip("+").startswith("decoding.chunk=") for run in values for item in run.get("overrides") or ()):
        paths += ["speed.first_audio_seconds", "speed.worst_gap_seconds"]
    if any(run["distortion"]["sound"] is not None for run in values):
        paths += ["distortion.tv", "distortion.sound"]
    if any(run["counts"]["empty"] for run in values):
        paths.append("counts.empty")
    figures = {path: FIGURES[path] for path in paths}
    figures |= {f"quality.{key}": figure for key, figure in measured(values).items()}
    columns = []
    for path, figure in figures.items():
        group, key = path.split(".")
        column, intervals = ([run[group].get(name) for run in values] for name in (key, f"{key}_ci95"))
        columns.append(Column(path, figure, column, intervals))
    return columns


def table(results: Sequence[Result]) -> Table:
    """Figures with their intervals in brackets, one row a run. After the name come the study if there are several, and
    the number of seeds if a row has several."""
    columns = columns_of(results)
    several = len({result.values["study"] for result in results}) > 1
    seeds = any(len(_seeds(result)) > 1 for result in results)
    rows = [
        [
            name,
            *([result.values["study"]] * several),
            *([str(len(_seeds(result)))] * seeds),
            *(cell(column.figure, column.values[row], column.intervals[row]) for column in columns),
        ]
        for row, (name, result) in enumerate(zip(run_names(results), results, strict=True))
    ]
    header = ["method", *(["study"] * several), *(["seeds"] * seeds), *(column.figure.heading for column in columns)]
    return header, rows


def _seeds(result: Result) -> Sequence[int]:
    """The seeds of a method; a plain result has one."""
    return result.values.get("seeds", (0,))


def ranks(results: Sequence[Result]) -> list[list[int]]:
    """By column, of each run: 1 best, 2 second best. Only figures with intervals and a direction are ranked."""
    return [
        compare.ranks(_spans(column, results), column.figure.better == "higher")
        if column.figure.better
        else [0] * len(results)
        for column in columns_of(results)
    ]


def _spans(column: Column, results: Sequence[Result]) -> list[tuple[float, float, float] | None]:
    """(low, value, high) of each run; the target alone has a speed-up of exactly 1."""
    spans: list[tuple[float, float, float] | None] = []
    for result, value, interval in zip(results, column.values, column.intervals, strict=True):
        if interval is None and result.values["method"] == "target alone" and column.path == "speed.speedup":
            interval = (1.0, 1.0)
        spans.append(None if value is None or interval is None else (interval[0], value, interval[1]))
    return spans


def paired_table(results: Sequence[Result], paired: Paired) -> Table:
    """Differences to exact and to the target alone; runs without either are left out."""
    figures = {column.path.partition(".")[2]: column.figure for column in columns_of(results)}
    shown = sorted(
        dict.fromkeys((which, key) for both in paired for which, estimates in enumerate(both) for key in estimates),
        key=lambda column: column[0],
    )
    header = ["method"]
    for which, key in shown:
        header.append(f"{figures[key].heading} {'/' if key == 'speedup' else '−'} {('exact', 'target')[which]}")
    rows = [
        [name, *(_difference(both[which].get(key), key, figures[key]) for which, key in shown)]
        for name, both in zip(labels(results), paired, strict=True)
        if any(both)
    ]
    return header, rows


def _difference(estimate: compare.Estimate | None, key: str, figure: Figure) -> str:
    sign = "" if key == "speedup" else "+"
    return "-" if estimate is None else cell(figure, estimate.value, estimate.ci95, sign)


def slots_table(results: Sequence[Result]) -> Table:
    """Alpha by slot, the place of a token in its frame. No rows where every target says one token a frame."""
    by_slot = [result.values["acceptance"].get("alpha_by_slot") or [] for result in results]
    slots = max(map(len, by_slot), default=0)
    rows = [
        [name, *(cell(FIGURES["acceptance.alpha"], alpha) for alpha in alphas), *(["-"] * (slots - len(alphas)))]
        for name, alphas in zip(labels(results), by_slot, strict=True)
        if alphas
    ]
    return ["method", *(f"slot {slot}" for slot in range(slots))], rows


def pairs_table(results: Sequence[Method], pairs: Sequence[tuple[int, int, compare.Estimates]]) -> Table:
    """Every two methods' differences in quality, each with the smallest difference that could have been seen, and for
    shares with the number of utterances that ``ENOUGH`` would take."""
    figures = measured([result.values for result in results])
    shown = {key: figure for key, figure in figures.items() if any(key in estimates for _, _, estimates in pairs)}
    names, header = labels(results), ["methods"]
    for figure in shown.values():
        header += [figure.heading, "could be seen"]
        header += [f"utterances for {figure.number(ENOUGH)}"] * figure.is_share
    rows = []
    for first, second, estimates in pairs:
        seeds = min(len(results[index].seeds) for index in (first, second))
        cells = [text for key, figure in shown.items() for text in _seen(estimates.get(key), figure, seeds)]
        rows.append([f"{names[first]} − {names[second]}", *cells])
    return header, rows


def _seen(estimate: compare.Estimate | None, figure: Figure, seeds: int) -> list[str]:
    """A pair's difference, the smallest that could have been seen, and for shares the utterances for ``ENOUGH``."""
    cells = ["-"] * (3 if figure.is_share else 2)
    if estimate is None or estimate.value is None:
        return cells
    cells[0] = cell(figure, estimate.value, estimate.ci95, "+")
    if estimate.spread is not None:
        cells[1] = figure.number(estimate.spread.detectable)
        if figure.is_share:
            needed = estimate.spread.utterances_for(ENOUGH, seeds)
            cells[2] = "more seeds" if needed is None else str(needed)
    return cells


def flat_rows(results: Sequence[Result], paired: Paired) -> list[dict[str, Any]]:
    """All figures of all runs at full precision, one row a run, with the differences to exact and to the target."""
    groups = ("counts", "acceptance", "speed", "distortion", "quality")
    return [
        {
            "study": result.values["study"],
            "run_id": result.values["run_id"],
            "method": name,
            "seeds": " ".join(map(str, _seeds(result))),
            "devices": result.values["devices"],
            **_flatten({group: result.values[group] for group in groups}),
            **_flatten({"against_exact": _values(both[0]), "against_target": _values(both[1])}),
        }
        for name, result, both in zip(labels(results), results, paired, strict=True)
    ]


def _values(estimates: compare.Estimates) -> dict[str, Any]:
    return {name: value for key, estimate in estimates.items() for name, value in estimate.named(key).items()}


def _flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted keys; the items of a list are numbered, the ends of an interval are ``low`` and ``high``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list):
            ends = ("low", "high") if key.endswith("ci95") else map(str, range(len(value)))
            value = dict(zip(ends, value, strict=True))
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{path}{key}.")
        else:
            flat[path + key] = value
    return flat
