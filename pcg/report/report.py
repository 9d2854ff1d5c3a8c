"""The runs of a study, or of several, side by side: table (on the screen, Markdown, CSV, LaTeX), plots and page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.config.build import TARGET
from pcg.config.identity import name_of, theta
from pcg.config.validate import ConfigError, nearest
from pcg.report import bridge, compare, latex, page
from pcg.report.plots import draw_plots
from pcg.results import store
from pcg.results.records import write_atomically
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
_PARTS = ("target.", "draft.", "codec.", "dataset.")
_MARKS = ("{}", "**{}**", "*{}*")  # in Markdown: neither, best, second best
_LEGEND = (
    "\nIntervals are 95 %, over utterances. **Best** and *second best* are marked only where their intervals are clear "
    "of those of all that are worse.\n"
)
_PAIRED = (
    "\nDifferences on the same utterances, pair by pair: a run minus its exact twin (same settings, rule `exact`), and "
    "minus the target alone on the same prompts. Speed-up: the ratio to the twin's.\n\n"
)


def check(config: Mapping[str, Any]) -> list[str]:
    """The studies that conf/report.yaml's ``study`` names: one, or a list.

    Raises:
        ConfigError: some have no finished run; it names those that have.
    """
    outputs, asked = Path(config["paths"]["outputs"]), config["study"]
    names = [str(name) for name in (asked if isinstance(asked, list) else [asked])]
    there = sorted({path.parent.parent.name for path in outputs.glob(f"*/*/{store.NAME}")})
    wrong = [name for name in names if name not in there]
    if wrong or not names:
        raise ConfigError(
            f"study={name}: no finished run at {outputs / name}/<run_id>/{store.NAME}{nearest(name, there)}"
            for name in wrong or [""]
        )
    return list(dict.fromkeys(names))


def show_studies(config: Mapping[str, Any]) -> Path:
    """Report on what conf/report.yaml asks for; several studies go into ``outputs/report-A-B``."""
    names, outputs = check(config), Path(config["paths"]["outputs"])
    if len(names) == 1:
        return show(outputs / names[0])
    folder = outputs / f"report-{'-'.join(names)}"
    results = [result for name in names for result in in_order(store.read_study(outputs / name))]
    _report(", ".join(names), results, folder, Console(width=_width()))
    return folder


def show(study_folder: Path) -> Path:
    """Print a study's table and where everything lies, and write its report; returns the report's folder.

    Raises:
        FileNotFoundError: the study has no finished run.
    """
    results = in_order(store.read_study(study_folder))
    if not results:
        raise FileNotFoundError(f"{study_folder}: no finished run (runs are at {study_folder}/<run_id>/result.json)")
    folder, console = study_folder / "report", Console(width=_width())
    _report(study_folder.name, results, folder, console)
    _compare_with_predictions(console, study_folder, results, folder)
    return folder


def _report(title: str, results: Sequence[Result], folder: Path, console: Console) -> None:
    folder.mkdir(exist_ok=True)
    header, rows = table(results)
    paired = [
        (compare.against_exact(result, _nearest_first(result, results)), compare.against_target(result))
        for result in results
    ]
    _write_tables(folder, results, header, rows, paired)
    page.write(results, labels(results), folder)
    plots = draw_plots(results, labels(results), folder)
    console.print(rich_table(title, header, rows))
    _print_paths(console, results, folder, plots)


def _width() -> int | None:
    return None if Console().is_terminal else 160


def _nearest_first(result: Result, results: Sequence[Result]) -> list[Result]:
    """Those of the same study first: a run's twin is looked for at home before elsewhere."""
    return sorted(results, key=lambda other: other.values["study"] != result.values["study"])


def _write_tables(
    folder: Path,
    results: Sequence[Result],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    paired: Sequence[tuple[compare.Estimates, compare.Estimates]],
) -> None:
    """table.md and table.tex, with the best marked and the paired differences below, and table.csv."""
    ranked = list(zip(*_ranks(results), strict=True))
    marked = [[0] * (len(header) - len(line)) + list(line) for line in ranked]  # names are not ranked
    shown = [
        [_MARKS[rank].format(cell) for cell, rank in zip(row, line, strict=True)]
        for row, line in zip(rows, marked, strict=True)
    ]
    text, tex = markdown(header, shown) + _LEGEND, latex.tabular(header, rows, marked)
    below, differences = paired_table(labels(results), paired)
    if differences:
        text += _PAIRED + markdown(below, differences)
        tex += "\n" + latex.tabular(below, differences, [[0] * len(below)] * len(differences))
    write_atomically(folder / "table.md", text)
    write_atomically(folder / "table.tex", "% needs \\usepackage{booktabs}\n" + tex)
    write_atomically(folder / "table.csv", comma_separated(results, paired))


def paired_table(
    names: Sequence[str], paired: Sequence[tuple[compare.Estimates, compare.Estimates]]
) -> tuple[list[str], list[list[str]]]:
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
    if found is None or found.value is None:
        return "-"
    form = "{:.3f}" if key == "speedup" else "{:+.1%}" if _is_rate(key) else "{:+.3f}"
    ends = found.ci95 and " [" + ", ".join(form.format(end).rstrip("%") for end in found.ci95) + "]"
    return form.format(found.value).rstrip("%") + (ends or "")


def _ranks(results: Sequence[Result]) -> list[list[int]]:
    """By column, of each run: 1 best, 2 second best. Only figures with intervals are ranked."""
    columns = {**_COLUMNS, **_quality_columns(results)}
    return [
        compare.ranks([_span(result.values, path) for result in results], not _is_rate(path.split(".")[1]))
        if with_interval
        else [0] * len(results)
        for path, _, with_interval in columns.values()
    ]


def _span(values: Mapping[str, Any], path: str) -> tuple[float, float, float] | None:
    """(low, value, high); the target alone has a speed-up of exactly 1."""
    group, key = path.split(".")
    value, interval = values[group].get(key), values[group].get(f"{key}_ci95")
    if interval is None and values["method"] == "target alone" and key == "speedup":
        interval = (1.0, 1.0)
    return None if value is None or interval is None else (interval[0], value, interval[1])


def _compare_with_predictions(console: Console, study_folder: Path, results: Sequence[Result], folder: Path) -> None:
    """Where the study has been scored offline (``experiments/offline.py``), what it predicted beside what was run."""
    header, rows = bridge.table(study_folder, labels(results), results)
    if rows:
        console.print(rich_table(f"{study_folder.name}, predicted offline and measured", header, rows))
        write_atomically(folder / "offline_online.md", markdown(header, rows))
        console.print(f"table   {folder}/offline_online.md", soft_wrap=True)


def in_order(results: Sequence[Result]) -> list[Result]:
    """Target alone, exact, then the other methods by name, theta and what may be swept of the decoding."""

    def place(result: Result) -> tuple[Any, ...]:
        values = result.values
        first = _METHODS.index(values["method"]) if values["method"] in _METHODS else len(_METHODS)
        at, decoding = theta(values["config"]), values["config"]["decoding"]
        swept = [decoding.get(key) or 0 for key in ("temperature", "batch_size", "gamma")]
        return (first, values["method"], -1.0 if at is None else at, values["label"], swept, values["run_id"])

    return sorted(results, key=place)


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, intervals in brackets; settings in which the runs differ follow the method's name, and the
    study where there are several."""
    columns = {**_COLUMNS, **_quality_columns(results)}
    several = len({result.values["study"] for result in results}) > 1
    rows = [
        [name, *([result.values["study"]] * several), *(_cell(result.values, *column) for column in columns.values())]
        for name, result in zip(_names(results), results, strict=True)
    ]
    return ["method", *(["study"] * several), *columns], rows


def labels(results: Sequence[Result]) -> list[str]:
    """What each run is called where there is no study column."""
    studies = [result.values["study"] for result in results]
    if len(set(studies)) == 1:
        return _names(results)
    return [f"{name} ({study})" for name, study in zip(_names(results), studies, strict=True)]


def _names(results: Sequence[Result]) -> list[str]:
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
    """Dotted keys, without those that a label shows already. A part is told by its model, or else its kind."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        shown = path == "grouping." or (path.startswith("grouping.") and key in ("theta", TARGET))
        shown |= (key, value) == ("source", "target_input") or (path in _PARTS and key in (TARGET, "path"))
        if f"{path}{key}." in _PARTS and value:
            flat[key] = (value.get("path") or name_of(value)).rpartition("/")[2]
        if path in _PARTS and key == "text":
            continue  # goes with the model
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
    return {_NAMES.get(key, key): (f"quality.{key}", "{:.1%}" if _is_rate(key) else "{:.3f}", True) for key in keys}


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


def comma_separated(results: Sequence[Result], paired: Sequence[tuple[compare.Estimates, compare.Estimates]]) -> str:
    """All figures of all runs at full precision, one row a run; then the paired differences to exact and target."""
    kept = ("counts", "acceptance", "speed", "distortion", "quality")
    flat = [
        {
            "study": result.values["study"],
            "run_id": result.values["run_id"],
            "method": name,
            **_flatten({key: result.values[key] for key in kept}),
            **_flatten({"against_exact": _plain(both[0]), "against_target": _plain(both[1])}),
        }
        for name, result, both in zip(labels(results), results, paired, strict=True)
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _plain(found: compare.Estimates) -> dict[str, Any]:
    return {
        name: value
        for key, figure in found.items()
        for name, value in ((key, figure.value), (f"{key}_ci95", figure.ci95 and list(figure.ci95)))
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


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    shown = Table(title=title, title_justify="left")
    for name in header:
        shown.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
    for row in rows:
        shown.add_row(*row)
    return shown


def _print_paths(console: Console, results: Sequence[Result], folder: Path, plots: Sequence[Path]) -> None:
    console.print(f"table   {folder}/table.md, {folder}/table.csv, {folder}/table.tex", soft_wrap=True)
    console.print(f"listen  {folder}/index.html", soft_wrap=True)
    for plot in plots:
        console.print(f"plot    {plot}", soft_wrap=True)
    for name, result in zip(labels(results), results, strict=True):
        console.print(f"{name}:  {result.folder}/result.json  {result.folder}/audio/*.wav", soft_wrap=True)
        for run in sorted(Path(result.folder).glob("wandb/offline-run-*")):
            console.print(f"    W&B (offline)  {run}", soft_wrap=True)
