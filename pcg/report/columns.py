"""What a study's table shows of its runs: figures, which is best, differences to exact and to the target alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcg.report import compare
from pcg.report.names import labels, run_names
from pcg.report.tables import figure
from pcg.types import Result

Paired = Sequence[tuple[compare.Estimates, compare.Estimates]]  # of each run: against exact, against the target alone
# Column -> (where in result.json, format, whether its interval is shown). Quality comes after, as far as measured.
_COLUMNS: Mapping[str, tuple[str, str, bool]] = {
    "alpha": ("acceptance.alpha", "{:.3f}", True),
    "tau": ("acceptance.tau", "{:.2f}", True),
    "tokens/s": ("speed.tokens_per_second", "{:.0f}", False),
    "speed-up": ("speed.speedup", "{:.2f}", True),
    "ideal": ("speed.ideal_speedup", "{:.2f}", False),
    "RTF": ("speed.rtf", "{:.3f}", False),
}
_NAMES = {"wer": "WER %", "cer": "CER %", "speaker_similarity": "similarity", "mos": "MOS"}


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, intervals in brackets; settings in which the runs differ follow the method's name, and the
    study where there are several."""
    columns = _columns(results)
    several = len({result.values["study"] for result in results}) > 1
    rows = [
        [name, *([result.values["study"]] * several), *(_cell(result.values, *column) for column in columns.values())]
        for name, result in zip(run_names(results), results, strict=True)
    ]
    return ["method", *(["study"] * several), *columns], rows


def _cell(values: Mapping[str, Any], path: str, form: str, with_interval: bool) -> str:
    group, key = path.split(".")
    return figure(form, values[group].get(key), values[group].get(f"{key}_ci95") if with_interval else None)


def _columns(results: Sequence[Result]) -> dict[str, tuple[str, str, bool]]:
    """Empty generations only where there are some; what engines are compared by where there is another than ours."""
    columns = dict(_COLUMNS)
    if any(result.values["engine"]["name"] != "own" for result in results):
        columns["tokens/s with prefill"] = ("speed.tokens_per_second_whole", "{:.0f}", False)
    some = any(result.values["counts"]["empty"] for result in results)
    return {**columns, **({"empty": ("counts.empty", "{}", False)} if some else {}), **_quality_columns(results)}


def _quality_columns(results: Sequence[Result]) -> dict[str, tuple[str, str, bool]]:
    keys = dict.fromkeys(
        key
        for result in results
        for key, value in result.values["quality"].items()
        if value is not None and not key.endswith("_ci95") and not key.startswith("baseline_")
    )
    return {_NAMES.get(key, key): (f"quality.{key}", "{:.1%}" if _is_rate(key) else "{:.3f}", True) for key in keys}


def _is_rate(key: str) -> bool:
    return key.startswith(("wer", "cer"))


def ranks(results: Sequence[Result]) -> list[list[int]]:
    """By column, of each run: 1 best, 2 second best. Only figures with intervals are ranked."""
    return [
        compare.ranks([_span(result.values, path) for result in results], not _is_rate(path.split(".")[1]))
        if with_interval
        else [0] * len(results)
        for path, _, with_interval in _columns(results).values()
    ]


def _span(values: Mapping[str, Any], path: str) -> tuple[float, float, float] | None:
    """(low, value, high); the target alone has a speed-up of exactly 1."""
    group, key = path.split(".")
    value, interval = values[group].get(key), values[group].get(f"{key}_ci95")
    if interval is None and values["method"] == "target alone" and key == "speedup":
        interval = (1.0, 1.0)
    return None if value is None or interval is None else (interval[0], value, interval[1])


def paired_table(names: Sequence[str], paired: Paired) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the differences to exact and to the target alone; runs without either are left out."""
    columns = list(dict.fromkeys((which, key) for both in paired for which, found in enumerate(both) for key in found))
    columns.sort(key=lambda column: column[0])
    header = ["method", *(_difference_name(which, key) for which, key in columns)]
    rows = [
        [name, *(_difference(both[which].get(key), key) for which, key in columns)]
        for name, both in zip(names, paired, strict=True)
        if any(both)
    ]
    return header, rows


def _difference_name(which: int, key: str) -> str:
    sign = "/" if key == "speedup" else "−"
    return f"{'speed-up' if key == 'speedup' else _NAMES.get(key, key)} {sign} {('exact', 'target')[which]}"


def _difference(found: compare.Estimate | None, key: str) -> str:
    form = "{:.3f}" if key == "speedup" else "{:+.1%}" if _is_rate(key) else "{:+.3f}"
    return "-" if found is None else figure(form, found.value, found.ci95)


def flat_rows(results: Sequence[Result], paired: Paired) -> list[dict[str, Any]]:
    """All figures of all runs at full precision, one row a run; then the paired differences to exact and target."""
    kept = ("counts", "acceptance", "speed", "distortion", "quality")
    return [
        {
            "study": result.values["study"],
            "run_id": result.values["run_id"],
            "method": name,
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
