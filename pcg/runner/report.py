"""A study's runs side by side: the table, on the screen and as Markdown and CSV, and the plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.runner import bridge, store
from pcg.runner.build import TARGET
from pcg.runner.identity import theta
from pcg.runner.plots import draw_plots
from pcg.runner.records import write_atomically
from pcg.types import Result

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
_METHODS = ("target alone", "exact")  # come first; the rest by name and theta


def show(study_folder: Path) -> Path:
    """Print a study's table and where everything lies, and write its report; returns the report's folder.

    Raises:
        FileNotFoundError: the study has no finished run.
    """
    results = in_order(store.read_study(study_folder))
    if not results:
        raise FileNotFoundError(f"{study_folder}: no finished run (runs are at {study_folder}/<run_id>/result.json)")
    folder = study_folder / "report"
    folder.mkdir(exist_ok=True)
    header, rows = table(results)
    write_atomically(folder / "table.md", markdown(header, rows))
    write_atomically(folder / "table.csv", comma_separated(results))
    plots = draw_plots(results, labels(results), folder)
    console = Console(width=None if Console().is_terminal else 160)
    console.print(rich_table(study_folder.name, header, rows))
    _compare_with_predictions(console, study_folder, results, folder)
    _print_paths(console, results, folder, plots)
    return folder


def _compare_with_predictions(console: Console, study_folder: Path, results: Sequence[Result], folder: Path) -> None:
    """Where the study has been scored offline (``experiments/offline.py``), what it predicted beside what was run."""
    header, rows = bridge.table(study_folder, labels(results), results)
    if rows:
        console.print(rich_table(f"{study_folder.name}, predicted offline and measured", header, rows))
        write_atomically(folder / "offline_online.md", markdown(header, rows))
        console.print(f"table   {folder}/offline_online.md", soft_wrap=True)


def in_order(results: Sequence[Result]) -> list[Result]:
    """Target alone, exact, then the other methods by name and theta."""

    def place(result: Result) -> tuple[Any, ...]:
        values = result.values
        first = _METHODS.index(values["method"]) if values["method"] in _METHODS else len(_METHODS)
        at = theta(values["config"])
        return (first, values["method"], -1.0 if at is None else at, values["label"], values["run_id"])

    return sorted(results, key=place)


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, intervals in brackets; settings in which the runs differ follow the method's name."""
    columns = {**_COLUMNS, **_quality_columns(results)}
    names = labels(results)
    rows = [
        [name, *(_cell(result.values, *column) for column in columns.values())]
        for name, result in zip(names, results, strict=True)
    ]
    return ["method", *columns], rows


def labels(results: Sequence[Result]) -> list[str]:
    """Each run's label, with every other setting in which the runs differ."""
    settings = [_settings(result.values["config"]) for result in results]
    varying = [
        key
        for key in dict.fromkeys(key for setting in settings for key in setting)
        if len({str(setting[key]) for setting in settings if key in setting}) > 1
    ]
    return [
        " ".join([result.values["label"], *(f"{_leaf(key)}={setting[key]}" for key in varying if key in setting)])
        for result, setting in zip(results, settings, strict=True)
    ]


def _settings(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted keys, without those that a label shows already."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        shown = path == "grouping." or (path.startswith("grouping.") and key in ("theta", TARGET))
        if isinstance(value, Mapping):
            flat |= _settings(value, f"{path}{key}.")
        elif value is not None and not shown:
            flat[path + key] = value
    return flat


def _leaf(key: str) -> str:
    group, _, leaf = key.rpartition(".")
    return group.rpartition(".")[2] if leaf == TARGET else leaf


def _quality_columns(results: Sequence[Result]) -> dict[str, tuple[str, str, bool]]:
    keys = dict.fromkeys(
        key
        for result in results
        for key in result.values["quality"]
        if not key.endswith("_ci95") and not key.startswith("baseline_")
    )
    return {
        _NAMES.get(key, key): (f"quality.{key}", "{:.1%}" if _is_rate(key) else "{:.3f}", _is_rate(key)) for key in keys
    }


def _is_rate(key: str) -> bool:
    return key.startswith(("wer", "cer"))


def _cell(values: Mapping[str, Any], path: str, form: str, with_interval: bool) -> str:
    group, key = path.split(".")
    value, interval = values[group].get(key), values[group].get(f"{key}_ci95")
    if value is None:
        return "-"
    shown = form.format(value).rstrip("%")
    if with_interval and interval:
        shown += " [" + ", ".join(form.format(end).rstrip("%") for end in interval) + "]"
    return shown


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(results: Sequence[Result]) -> str:
    """All figures of all runs at full precision, one row a run."""
    kept = ("counts", "acceptance", "speed", "distortion", "quality")
    flat = [
        {"run_id": result.values["run_id"], "method": name, **_flatten({key: result.values[key] for key in kept})}
        for name, result in zip(labels(results), results, strict=True)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


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


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left")
    for name in header:
        shown.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
    for row in rows:
        shown.add_row(*row)
    return shown


def _print_paths(console: Console, results: Sequence[Result], folder: Path, plots: Sequence[Path]) -> None:
    console.print(f"table   {folder}/table.md, {folder}/table.csv", soft_wrap=True)
    for plot in plots:
        console.print(f"plot    {plot}", soft_wrap=True)
    for name, result in zip(labels(results), results, strict=True):
        console.print(f"{name}:  {result.folder}/result.json  {result.folder}/audio/*.wav", soft_wrap=True)
        for run in sorted(Path(result.folder).glob("wandb/offline-run-*")):
            console.print(f"    W&B (offline)  {run}", soft_wrap=True)
