"""What a study's table shows of its runs: figures, which is best, differences to exact and to the target alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcg.report import compare
from pcg.report.names import labels, run_names
from pcg.report.seeds import Method
from pcg.report.tables import cell
from pcg.results.figures import FIGURES, measured
from pcg.types import Figure, Result

ENOUGH = 0.015  # a difference of WER that would matter: 1.5 points
Paired = Sequence[tuple[compare.Estimates, compare.Estimates]]  # of each run: against exact, against the target alone
# Shown of every study; quality comes after, as far as measured.
_ALWAYS = (
    "acceptance.alpha", "acceptance.tau", "speed.tokens_per_second", "speed.speedup", "speed.ideal_speedup",
    "speed.rtf",
)  # fmt: skip


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, intervals in brackets; settings in which the runs differ follow the method's name, then the
    study where there are several, and the number of seeds where one has several."""
    columns = figures_of(results)
    several = len({result.values["study"] for result in results}) > 1
    seeds = any(len(_seeds(result)) > 1 for result in results)
    rows = [
        [
            name,
            *([result.values["study"]] * several),
            *([str(len(_seeds(result)))] * seeds),
            *(_cell(result.values, *column) for column in columns.items()),
        ]
        for name, result in zip(run_names(results), results, strict=True)
    ]
    return [
        "method",
        *(["study"] * several),
        *(["seeds"] * seeds),
        *(figure.heading for figure in columns.values()),
    ], rows


def _seeds(result: Result) -> Sequence[int]:
    """Of a method as the report shows it; a plain result has one."""
    return result.values.get("seeds", (0,))


def _cell(values: Mapping[str, Any], path: str, figure: Figure) -> str:
    group, key = path.split(".")
    return cell(figure, values[group].get(key), values[group].get(f"{key}_ci95"))


def figures_of(results: Sequence[Result]) -> dict[str, Figure]:
    """By path in result.json. Empty generations and distances only where some are measured; what engines are compared
    by where there is another than ours; what a listener waits where some run was asked for with ``decoding.chunk``."""
    paths = list(_ALWAYS)
    if any(result.values["engine"]["name"] != "own" for result in results):
        paths.append("speed.tokens_per_second_whole")
    if any(item.lstrip("+").startswith("decoding.chunk=") for r in results for item in r.values.get("overrides") or ()):
        paths += ["speed.first_audio_seconds", "speed.worst_gap_seconds"]
    if any(result.values["distortion"]["sound"] is not None for result in results):
        paths += ["distortion.tv", "distortion.sound"]
    if any(result.values["counts"]["empty"] for result in results):
        paths.append("counts.empty")
    quality = measured([result.values for result in results])
    return {path: FIGURES[path] for path in paths} | {f"quality.{key}": figure for key, figure in quality.items()}


def ranks(results: Sequence[Result]) -> list[list[int]]:
    """By column, of each run: 1 best, 2 second best. Only figures with intervals and a direction are ranked."""
    return [
        compare.ranks([_span(result.values, path) for result in results], figure.better == "higher")
        if figure.better
        else [0] * len(results)
        for path, figure in figures_of(results).items()
    ]


def _span(values: Mapping[str, Any], path: str) -> tuple[float, float, float] | None:
    """(low, value, high); the target alone has a speed-up of exactly 1."""
    group, key = path.split(".")
    value, interval = values[group].get(key), values[group].get(f"{key}_ci95")
    if interval is None and values["method"] == "target alone" and key == "speedup":
        interval = (1.0, 1.0)
    return None if value is None or interval is None else (interval[0], value, interval[1])


def paired_table(results: Sequence[Result], paired: Paired) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the differences to exact and to the target alone; runs without either are left out."""
    figures = {path.partition(".")[2]: figure for path, figure in figures_of(results).items()}
    columns = list(dict.fromkeys((which, key) for both in paired for which, found in enumerate(both) for key in found))
    columns.sort(key=lambda column: column[0])
    header = ["method", *(_difference_name(which, key, figures[key]) for which, key in columns)]
    rows = [
        [name, *(_difference(both[which].get(key), key, figures[key]) for which, key in columns)]
        for name, both in zip(labels(results), paired, strict=True)
        if any(both)
    ]
    return header, rows


def slots_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of alpha by slot, the place of a token in its frame. No rows where every target of the study
    says one token a frame."""
    by_slot = [result.values["acceptance"].get("alpha_by_slot") for result in results]
    slots = max((len(found) for found in by_slot if found), default=0)
    header = ["method", *(f"slot {place}" for place in range(slots))]
    rows = [
        [name, *(cell(FIGURES["acceptance.alpha"], alpha) for alpha in found), *(["-"] * (slots - len(found)))]
        for name, found in zip(labels(results), by_slot, strict=True)
        if found
    ]
    return header, rows


def pairs_table(
    results: Sequence[Method], pairs: Sequence[tuple[int, int, compare.Estimates]]
) -> tuple[list[str], list[list[str]]]:
    """Header and cells of every two methods' differences in quality: with the smallest difference that could have been
    seen, and of shares how many utterances ``ENOUGH`` would take."""
    figures = measured([result.values for result in results])
    shown = [key for key in figures if any(key in found for _, _, found in pairs)]
    names, header = labels(results), ["methods"]
    for key in shown:
        header += [figures[key].heading, "could be seen"]
        if figures[key].unit == "%":
            header.append(f"utterances for {figures[key].number(ENOUGH)}")
    rows = []
    for first, second, found in pairs:
        row = [f"{names[first]} − {names[second]}"]
        seeds = min(len(results[place].seeds) for place in (first, second))
        for key in shown:
            row += _seen(found.get(key), figures[key], seeds)
        rows.append(row)
    return header, rows


def _seen(found: compare.Estimate | None, figure: Figure, seeds: int) -> list[str]:
    """A pair's difference, the smallest that could have been seen, and of shares what ``ENOUGH`` takes."""
    empty = ["-"] * (3 if figure.unit == "%" else 2)
    if found is None or found.value is None:
        return empty
    shown = [cell(figure, found.value, found.ci95, "+"), *empty[1:]]
    if found.spread is not None:
        shown[1] = figure.number(found.spread.detectable)
        if figure.unit == "%":
            needed = found.spread.utterances_for(ENOUGH, seeds)
            shown[2] = "more seeds" if needed is None else str(needed)
    return shown


def _difference_name(which: int, key: str, figure: Figure) -> str:
    return f"{figure.heading} {'/' if key == 'speedup' else '−'} {('exact', 'target')[which]}"


def _difference(found: compare.Estimate | None, key: str, figure: Figure) -> str:
    return "-" if found is None else cell(figure, found.value, found.ci95, "" if key == "speedup" else "+")


def flat_rows(results: Sequence[Result], paired: Paired) -> list[dict[str, Any]]:
    """All figures of all runs at full precision, one row a run; then the paired differences to exact and target."""
    kept = ("counts", "acceptance", "speed", "distortion", "quality")
    return [
        {
            "study": result.values["study"],
            "run_id": result.values["run_id"],
            "method": name,
            "seeds": " ".join(map(str, _seeds(result))),
            "devices": result.values["devices"],
            **_flatten({key: result.values[key] for key in kept}),
            **_flatten({"against_exact": _plain(both[0]), "against_target": _plain(both[1])}),
        }
        for name, result, both in zip(labels(results), results, paired, strict=True)
    ]


def _plain(found: compare.Estimates) -> dict[str, Any]:
    return {
        name: value
        for key, known in found.items()
        for name, value in ((key, known.value), (f"{key}_ci95", known.ci95 and list(known.ci95)))
    }


def _flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list):
            value = {
                ("low", "high")[index] if key.endswith("ci95") else str(index): item for index, item in enumerate(value)
            }
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{path}{key}.")
        else:
            flat[path + key] = value
    return flat
