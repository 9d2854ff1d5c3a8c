"""The report on a study, or on several side by side: table (on the screen, Markdown, CSV, LaTeX), plots and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from pcg import constraints
from pcg.config.build import is_built
from pcg.config.validate import nearest, refuse
from pcg.constraints import up_to
from pcg.files import within
from pcg.report import blind, columns, compare, hearing, page, predicted, screen, seeds, tables
from pcg.report.names import in_order, labels
from pcg.report.plots import draw_plots, save
from pcg.report.seeds import Method, methods
from pcg.results import store
from pcg.results.records import write_atomically
from pcg.types import Result

_KEYS = {"blind": bool, "pairs": Annotated[int, up_to(1_000)], "methods": list[str] | None}  # of conf/report.yaml
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
    "the smallest true difference that a test at 5 % finds with probability .8. A smaller difference may exist though "
    "it was not seen. *Utterances for 1.5*: how many would make a difference of 1.5 points seen, with as many seeds as "
    "there are; *more seeds*: no number of utterances would.\n\n"
)
_SLOTS = (
    "\nAlpha by slot, the place of a token in its frame, of targets that say several tokens a frame. A slot's alpha is "
    "over the tested tokens that came out at that place.\n\n"
)
_SILENT = (
    "\nWithout a codec (`codec=none`) there is no audio, and so no quality and no RTF: {}. Their tokens are in "
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
    outputs, study = Path(config["paths"]["outputs"]).expanduser(), config["study"]
    names = [str(name) for name in (study if isinstance(study, list) else [study])]
    finished = sorted({path.parent.parent.name for path in outputs.glob(f"*/*/{store.NAME}")})
    problems = constraints.problems(config, _KEYS)
    problems += [
        f"study={name}: no finished run at {outputs / name}/<run_id>/{store.NAME}{nearest(name, finished)}"
        for name in names or [""]
        if name not in finished
    ]
    refuse(problems)
    return list(dict.fromkeys(names))


def show_studies(config: Mapping[str, Any]) -> Path:
    """Report on what conf/report.yaml asks for."""
    outputs = Path(config["paths"]["outputs"]).expanduser()
    return show(*(outputs / name for name in check(config)), config=config)


def show(*studies: Path, config: Mapping[str, Any] | None = None) -> Path:
    """Print the table of one or more studies and where everything lies, and write the report.

    Args:
        studies: their folders.
        config: of conf/report.yaml; None asks for no blind test.

    Returns:
        The report's folder: ``report`` in the study's, or ``report-A-B`` beside several.

    Raises:
        FileNotFoundError: there is no finished run.
        ConfigError: a blind test cannot be made as asked.
    """
    results = [result for study in studies for result in in_order(store.read_study(study))]
    if not results:
        raise FileNotFoundError(f"{studies[0]}: no finished run (runs are at {studies[0]}/<run_id>/{store.NAME})")
    names, alone = [study.name for study in studies], len(studies) == 1
    folder = studies[0] / "report" if alone else studies[0].with_name(within(f"report-{'-'.join(names)}", 200))
    console = tables.console(screen.WIDTH)
    page_path = _report(", ".join(names), methods(results), folder, console)
    if alone:
        _compare_with_predictions(console, studies[0], results, folder)
    if config and config.get("blind"):
        _write_blind(console, methods(results), folder, config)
    console.print(f"\nlisten  {page_path or 'nothing: there is no audio without a codec'}", soft_wrap=True)
    return folder


def _report(title: str, results: Sequence[Method], folder: Path, console: Console) -> Path | None:
    """Print and write tables, plots and page; returns the listening page, if there is audio."""
    folder.mkdir(exist_ok=True)
    paired = [
        (compare.against_exact(result, _nearest_first(result, results)), compare.against_target(result))
        for result in results
    ]
    names = labels(results)
    single, distances = seeds.note_on_single_seeds(results, names), seeds.note_on_distances(results, names)
    notes = [note for note in (single, distances, _note_on_sharing(results)) if note]
    _write_tables(folder, results, paired, notes)
    page_path = _write_page(results, folder)
    plots = draw_plots(results, names, folder)
    lines, dropped = screen.lines(results, [against_target for _, against_target in paired])
    console.print(f"{title}\n", style="bold")
    for line in lines:
        console.print(line, soft_wrap=True)
    more = f"No room for {', '.join(dropped)}. " if dropped else ""
    console.print(f"\n{screen.LEGEND.format(more)}")
    for note in notes:
        console.print(note)
    _write_hearing(console, results, folder)
    _print_paths(console, results, folder, plots)
    return page_path


def _write_hearing(console: Console, results: Sequence[Method], folder: Path) -> None:
    """How distances rank the runs beside what was heard of them, if there are enough: a table and a figure."""
    agreement, path = hearing.listen([run for method in results for run in method.runs]), folder / "hears.md"
    if agreement is None:
        path.unlink(missing_ok=True)  # of runs that are gone
        return
    legend = hearing.LEGEND.format(runs=agreement.runs, utterances=agreement.utterances)
    write_atomically(path, legend + tables.markdown(*hearing.table(agreement)))
    plot = save(hearing.draw(agreement), folder / "hears")
    console.print(f"hears   {path}, of {agreement.runs} runs\nplot    {plot}", soft_wrap=True)


def _has_audio(result: Result) -> bool:
    return is_built(result.values["config"]["codec"])


def _note_on_sharing(results: Sequence[Result]) -> str:
    """A sentence on runs that were timed by processes sharing a CPU; empty where there are none."""
    shared = [result.values["devices"] > 1 and result.values["device"].startswith("cpu") for result in results]
    if not any(shared):
        return ""
    speeds = [result.values["speed"] for result, is_shared in zip(results, shared, strict=True) if is_shared]
    by_cpu = all(speed["clock"] == "cpu" or speed["speedup_ci95"] is None for speed in speeds)
    slower, speedups = ("", "") if by_cpu else (", and not all passes alike", " and speed-ups")
    return _SHARED.format(slower, _named(shared, results), speedups)


def _named(chosen: Sequence[bool], results: Sequence[Result]) -> str:
    names = [name for name, is_chosen in zip(labels(results), chosen, strict=True) if is_chosen]
    return "every run" if all(chosen) else ", ".join(names)


def _write_page(results: Sequence[Method], folder: Path) -> Path | None:
    """The listening page of the runs that have audio, for several seeds of the first; None if there are none."""
    named = [
        (result, name if len(result.seeds) == 1 else f"{name} (clips of seed {result.seeds[0]})")
        for result, name in zip(results, labels(results), strict=True)
        if _has_audio(result)
    ]
    if not named:
        (folder / "index.html").unlink(missing_ok=True)  # of runs that are gone
        return None
    return page.write([result for result, _ in named], [name for _, name in named], folder)


def _nearest_first(result: Method, results: Sequence[Method]) -> list[Method]:
    """All methods, those of the same study first: an exact twin of the same study is preferred."""
    return sorted(results, key=lambda other: other.values["study"] != result.values["study"])


def _write_tables(folder: Path, results: Sequence[Method], paired: columns.Paired, notes: Sequence[str]) -> None:
    """table.md and table.tex, with the best marked and the paired differences below, and table.csv."""
    header, rows = columns.table(results)
    ranked = list(zip(*columns.ranks(results), strict=True))
    ranks = [[0] * (len(header) - len(line)) + list(line) for line in ranked]  # the first columns are no figures
    markdown, latex = tables.markdown(header, rows, ranks) + _LEGEND, tables.latex(header, rows, ranks)
    for text, table in (
        (_PAIRED, columns.paired_table(results, paired)),
        (_SLOTS, columns.slots_table(results)),
    ):
        if table[1]:
            markdown += text + tables.markdown(*table)
            latex += "\n" + tables.latex(*table)
    silent = [not _has_audio(result) for result in results]
    if any(silent):
        markdown += _SILENT.format(_named(silent, results))
    pairs = columns.pairs_table(results, compare.pairs(results))
    if pairs[1]:
        markdown += _PAIRS + tables.markdown(*pairs)
    markdown += "".join(f"\n{note}\n" for note in notes)
    write_atomically(folder / "table.md", markdown)
    write_atomically(folder / "table.tex", "% needs \\usepackage{booktabs}\n" + latex)
    write_atomically(folder / "table.csv", tables.comma_separated(columns.flat_rows(results, paired)))


def _compare_with_predictions(console: Console, study: Path, results: Sequence[Result], folder: Path) -> None:
    """What the study was predicted offline beside what was measured, if it was (``experiments/offline.py``)."""
    header, rows = predicted.table(study, labels(results), results)
    if rows:
        console.print(tables.rich_table(f"{study.name}, predicted offline and measured", header, rows))
        write_atomically(folder / "offline_online.md", tables.markdown(header, rows))
        console.print(f"table   {folder}/offline_online.md", soft_wrap=True)


def _write_blind(console: Console, results: Sequence[Method], folder: Path, config: Mapping[str, Any]) -> None:
    """The listening test without names."""
    with_audio = [method for method in results if _has_audio(method)]
    path, trials = blind.write(with_audio, labels(with_audio), folder, config["pairs"], config["methods"])
    pairs = {tuple(sorted(trial.methods)) for trial in trials}
    console.print(
        f"\nblind   {path}: {len(trials)} pairs of clips, about {len(trials) / len(pairs):.0f} of each two methods; "
        f"send it to listeners, keep {path.parent}/{blind.KEYS}/, and read what they save with `pcg ratings FILE ...`",
        soft_wrap=True,
    )


def _print_paths(console: Console, results: Sequence[Method], folder: Path, plots: Sequence[Path]) -> None:
    console.print(f"table   {folder}/table.md, {folder}/table.csv, {folder}/table.tex", soft_wrap=True)
    for plot in plots:
        console.print(f"plot    {plot}", soft_wrap=True)
    for name, method in zip(labels(results), results, strict=True):
        output = "audio/*.wav" if _has_audio(method) else "tokens/*.npy"
        for run in method.runs:
            console.print(f"{name}:  {run.folder}/result.json  {run.folder}/{output}", soft_wrap=True)
            for wandb_run in sorted(Path(run.folder).glob("wandb/offline-run-*")):
                console.print(f"    W&B (offline)  {wandb_run}", soft_wrap=True)
