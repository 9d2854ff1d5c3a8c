"""The runs of a study, or of several, side by side: table (on the screen, Markdown, CSV, LaTeX), plots and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from pcg import constraints
from pcg.config.build import is_built
from pcg.config.validate import ConfigError, nearest
from pcg.constraints import up_to
from pcg.files import within
from pcg.report import blind, columns, compare, hearing, latex, page, predicted, screen, seeds, tables
from pcg.report.names import in_order, labels
from pcg.report.plots import draw_plots, save
from pcg.report.seeds import Method, methods
from pcg.results import store
from pcg.results.records import write_atomically
from pcg.types import Result

_KEYS = {"blind": bool, "pairs": Annotated[int, up_to(1_000)], "methods": list[str] | None}  # of conf/report.yaml
_WIDTH = screen.WIDTH  # where nobody looks
_LEGEND = (
    "\nIntervals are 95 %, over utterances, and over seeds where a row has several. **Best** and *second best* are "
    "marked only where their intervals are clear of those of all that are worse.\n"
)
_PAIRED = (
    "\nDifferences on the same utterances, pair by pair: a run minus its exact twin (same settings, rule `exact`), and "
    "minus the target alone on the same prompts. Speed-up: the ratio to the twin's.\n\n"
)

_PAIRS = (
    "\nEvery two methods, the first minus the second, paired where they share utterances and seeds. *Could be seen*: "
    "the smallest true difference that a test at 5 % would have found with probability .8; that a smaller one was not "
    "seen does not say that there is none. *Utterances for 1.5*: how many would make 1.5 points be seen, with as many "
    "seeds as there are; *more seeds*: no number would.\n\n"
)
_SLOTS = (
    "\nAlpha by slot, the place of a token in its frame, of targets that say several tokens a frame. A slot's alpha is "
    "over the tested tokens that came out at that place.\n\n"
)
_UNHEARD = (
    "\nWithout a codec (`codec=none`) there is no audio, so no quality and no RTF: {}. Their tokens are in "
    "`tokens/*.npy`, those of the target alone in `baseline_tokens/*.npy`.\n"
)
_SHARED = (
    "Timed while several processes (`devices`) shared one CPU, which slows them down{}: {}. Their tokens/s, RTF{} are "
    "not those of one process alone (`devices=1`)."
)


def check(config: Mapping[str, Any]) -> list[str]:
    """The studies that conf/report.yaml's ``study`` names: one, or a list.

    Raises:
        ConfigError: some have no finished run; it names those that have.
    """
    outputs, asked = Path(config["paths"]["outputs"]).expanduser(), config["study"]
    names = [str(name) for name in (asked if isinstance(asked, list) else [asked])]
    there = sorted({path.parent.parent.name for path in outputs.glob(f"*/*/{store.NAME}")})
    wrong = [name for name in names if name not in there]
    problems = list(constraints.problems(config, _KEYS).values())
    if wrong or not names:
        problems += [
            f"study={name}: no finished run at {outputs / name}/<run_id>/{store.NAME}{nearest(name, there)}"
            for name in wrong or [""]
        ]
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(names))


def show_studies(config: Mapping[str, Any]) -> Path:
    """Report on what conf/report.yaml asks for; several studies go into ``outputs/report-A-B``."""
    names, outputs = check(config), Path(config["paths"]["outputs"]).expanduser()
    if len(names) == 1:
        return show(outputs / names[0], config)
    folder = outputs / within(f"report-{'-'.join(names)}", 200)
    results = [result for name in names for result in in_order(store.read_study(outputs / name))]
    console = tables.console(_WIDTH)
    listening = _report(", ".join(names), methods(results), folder, console)
    _write_blind(console, results, folder, config)
    _say_where_to_listen(console, listening)
    return folder


def show(study_folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """Print a study's table and where everything lies, and write its report; returns the report's folder.

    Args:
        config: of conf/report.yaml; None asks for no blind test.

    Raises:
        FileNotFoundError: the study has no finished run.
        ConfigError: a blind test cannot be made as asked.
    """
    results = in_order(store.read_study(study_folder))
    if not results:
        raise FileNotFoundError(f"{study_folder}: no finished run (runs are at {study_folder}/<run_id>/result.json)")
    folder, console = study_folder / "report", tables.console(_WIDTH)
    listening = _report(study_folder.name, methods(results), folder, console)
    _compare_with_predictions(console, study_folder, results, folder)
    _write_blind(console, results, folder, config or {})
    _say_where_to_listen(console, listening)
    return folder


def _report(title: str, results: Sequence[Method], folder: Path, console: Console) -> Path | None:
    """Print and write all of it; returns the listening page, where there is something to hear."""
    folder.mkdir(exist_ok=True)
    header, rows = columns.table(results)
    paired = [
        (compare.against_exact(result, _nearest_first(result, results)), compare.against_target(result))
        for result in results
    ]
    _write_tables(folder, results, header, rows, paired)
    listening = _write_page(results, folder)
    plots = draw_plots(results, labels(results), folder)
    shown, left_out = screen.lines(results, [alone for _, alone in paired])
    console.print(f"{title}\n", style="bold")
    for line in shown:
        console.print(line, soft_wrap=True)
    more = f"No room for {', '.join(left_out)}. " if left_out else ""
    console.print(f"\n{screen.LEGEND.format(more)}")
    for note in _notes(results):
        console.print(note)
    _write_hearing(console, results, folder)
    _print_paths(console, results, folder, plots)
    return listening


def _write_hearing(console: Console, results: Sequence[Method], folder: Path) -> None:
    """Which distance agrees with what was heard of the runs, where there are enough of them: a table and a figure."""
    found, path = hearing.listen([run for method in results for run in method.runs]), folder / "hears.md"
    if found is None:
        path.unlink(missing_ok=True)  # of runs that are gone
        return
    header, rows = hearing.table(found)
    write_atomically(
        path, hearing.LEGEND.format(runs=found.runs, utterances=found.utterances) + tables.markdown(header, rows)
    )
    plot = save(hearing.draw(found), folder / "hears")
    console.print(f"hears   {path}, of {found.runs} runs\nplot    {plot}", soft_wrap=True)


def _heard(result: Result) -> bool:
    return is_built(result.values["config"]["codec"])


def _notes(results: Sequence[Method]) -> list[str]:
    names = labels(results)
    notes = (seeds.note(results, names), seeds.note_on_distances(results, names), _note_on_sharing(results))
    return [note for note in notes if note]


def _note_on_sharing(results: Sequence[Result]) -> str:
    """Which runs were timed by processes that shared a CPU; nothing where none was."""
    shared = [result.values["devices"] > 1 and result.values["device"].startswith("cpu") for result in results]
    if not any(shared):
        return ""
    speeds = [result.values["speed"] for result, here in zip(results, shared, strict=True) if here]
    by_cpu = all(speed["clock"] == "cpu" or speed["speedup_ci95"] is None for speed in speeds)
    slower, speedups = ("", "") if by_cpu else (", and not all passes alike", " and speed-ups")
    return _SHARED.format(slower, _named(shared, results), speedups)


def _named(chosen: Sequence[bool], results: Sequence[Result]) -> str:
    named = [label for label, here in zip(labels(results), chosen, strict=True) if here]
    return "every run" if all(chosen) else ", ".join(named)


def _write_page(results: Sequence[Method], folder: Path) -> Path | None:
    """The listening page, of the runs that have audio, of several seeds the first; None where none has."""
    named = [
        label if len(result.seeds) == 1 else f"{label} (clips of seed {result.seeds[0]})"
        for label, result in zip(labels(results), results, strict=True)
    ]
    heard = [(result, label) for result, label in zip(results, named, strict=True) if _heard(result)]
    if not heard:
        (folder / "index.html").unlink(missing_ok=True)  # of runs that are gone
        return None
    return page.write([result for result, _ in heard], [label for _, label in heard], folder)


def _nearest_first(result: Method, results: Sequence[Method]) -> list[Method]:
    """Those of the same study first: a run's twin is looked for at home before elsewhere."""
    return sorted(results, key=lambda other: other.values["study"] != result.values["study"])


def _write_tables(
    folder: Path,
    results: Sequence[Method],
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    paired: Sequence[tuple[compare.Estimates, compare.Estimates]],
) -> None:
    """table.md and table.tex, with the best marked and the paired differences below, and table.csv."""
    ranked = list(zip(*columns.ranks(results), strict=True))
    marked = [[0] * (len(header) - len(line)) + list(line) for line in ranked]  # names are not ranked
    text, tex = tables.markdown(header, rows, marked) + _LEGEND, latex.tabular(header, rows, marked)
    below, differences = columns.paired_table(results, paired)
    if differences:
        text += _PAIRED + tables.markdown(below, differences)
        tex += "\n" + latex.tabular(below, differences, [[0] * len(below)] * len(differences))
    slots, by_slot = columns.slots_table(results)
    if by_slot:
        text += _SLOTS + tables.markdown(slots, by_slot)
        tex += "\n" + latex.tabular(slots, by_slot, [[0] * len(slots)] * len(by_slot))
    unheard = [not _heard(result) for result in results]
    if any(unheard):
        text += _UNHEARD.format(_named(unheard, results))
    between, told = columns.pairs_table(results, compare.pairs(results))
    if told:
        text += _PAIRS + tables.markdown(between, told)
    for note in _notes(results):
        text += f"\n{note}\n"
    write_atomically(folder / "table.md", text)
    write_atomically(folder / "table.tex", "% needs \\usepackage{booktabs}\n" + tex)
    write_atomically(folder / "table.csv", tables.comma_separated(columns.flat_rows(results, paired)))


def _compare_with_predictions(console: Console, study_folder: Path, results: Sequence[Result], folder: Path) -> None:
    """Where the study has been scored offline (``experiments/offline.py``), what it predicted beside what was run."""
    header, rows = predicted.table(study_folder, labels(results), results)
    if rows:
        console.print(tables.rich_table(f"{study_folder.name}, predicted offline and measured", header, rows))
        write_atomically(folder / "offline_online.md", tables.markdown(header, rows))
        console.print(f"table   {folder}/offline_online.md", soft_wrap=True)


def _write_blind(console: Console, results: Sequence[Result], folder: Path, config: Mapping[str, Any]) -> None:
    """The listening test without names, where it is asked for."""
    if not config.get("blind"):
        return
    heard = [method for method in methods(results) if _heard(method)]
    path, trials = blind.write(heard, labels(heard), folder, config["pairs"], config["methods"])
    two = {tuple(sorted(trial.methods)) for trial in trials}
    console.print(
        f"\nblind   {path}: {len(trials)} pairs, some {len(trials) / len(two):.0f} of each two methods; send it to "
        f"listeners, keep {path.parent}/{blind.KEYS}/, and read what they save with `pcg ratings FILE ...`",
        soft_wrap=True,
    )


def _say_where_to_listen(console: Console, page: Path | None) -> None:
    """The last line of a report."""
    console.print(f"\nlisten  {page or 'nothing to hear: no audio without a codec'}", soft_wrap=True)


def _print_paths(console: Console, results: Sequence[Method], folder: Path, plots: Sequence[Path]) -> None:
    console.print(f"table   {folder}/table.md, {folder}/table.csv, {folder}/table.tex", soft_wrap=True)
    for plot in plots:
        console.print(f"plot    {plot}", soft_wrap=True)
    for name, method in zip(labels(results), results, strict=True):
        spoken = "audio/*.wav" if _heard(method) else "tokens/*.npy"
        for run in method.runs:
            console.print(f"{name}:  {run.folder}/result.json  {run.folder}/{spoken}", soft_wrap=True)
            for logged in sorted(Path(run.folder).glob("wandb/offline-run-*")):
                console.print(f"    W&B (offline)  {logged}", soft_wrap=True)
