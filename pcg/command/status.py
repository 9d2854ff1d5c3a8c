"""How far each run of a sweep is: ``pcg run -m experiment=paper_table status=true``. No run is started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.config.run import parse
from pcg.results import lock, store
from pcg.results.records import newest, peek
from pcg.runner.loading import load_dataset, with_dataset

STATES = ("done", "running", "failed", "partial", "missing", "unknown")
_asked: dict[str, Status] = {}


@dataclass(frozen=True)
class Status:
    """How far one run is.

    Attributes:
        state: ``done``; ``running`` (a process holds its lock); ``failed`` (too many utterances failed, or an error
            ended it); ``partial`` (it was stopped, and the same command goes on with it); ``missing`` (it was never
            begun); ``unknown`` (its dataset is not on this machine, and nothing is fetched).
        done: utterances decoded without an error, of ``total``.
        reason: why it failed or is unknown.
    """

    label: str
    run_id: str
    state: str
    done: int
    total: int
    reason: str = ""


def of(config: Mapping[str, Any]) -> Status:
    """The status of a config's run. Nothing but its dataset is opened.

    Raises:
        ConfigError: the config is wrong.
    """
    run = parse(config)
    try:
        run = with_dataset(run)
    except FileNotFoundError as error:
        return Status(run.label, "", "unknown", 0, 0, " ".join(str(error).split()))
    label, name = run.label, run.id
    folder = run.settings.study_folder / name
    result = store.read(folder)
    if result is not None:
        good, failed = result.values["counts"]["utterances"], len(result.values["failures"])
        return Status(label, name, "done", good, good + failed)
    batches = newest(peek(folder / "batches.jsonl"))
    done = sum(row["error"] is None for batch in batches for row in batch["rows"])
    reason, state = "", "partial" if batches else "missing"
    if (folder / store.FAILED).exists():
        state, reason = "failed", (folder / store.FAILED).read_text(encoding="utf-8")
    if holder := lock.holder(folder):
        state, reason = "running", holder
    reason = " ".join(reason.removeprefix(f"{label}: ").split())
    return Status(label, name, state, done, len(load_dataset(run.dataset)), reason)


def ask(config: Mapping[str, Any]) -> None:
    """Add a run to the table that ``show_asked`` prints; a run that was added before counts once."""
    run = of(config)
    _asked[f"{config['study']}/{run.run_id or run.label}"] = run


def show_asked() -> None:
    """Print the table of all runs that were added, and begin a new one."""
    show(list(_asked.values()))
    _asked.clear()


def show(runs: Sequence[Status]) -> None:
    """Print one line a run, and totals."""
    table = Table()
    for column in ("run", "run_id", "state", "utterances", "reason"):
        table.add_column(column, justify="right" if column == "utterances" else "left", overflow="fold")
    for run in runs:
        table.add_row(run.label, run.run_id, run.state, f"{run.done} of {run.total}", run.reason)
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(table)
    states = Counter(run.state for run in runs)
    counted = ", ".join(f"{states[state]} {state}" for state in STATES if states[state] or state != "unknown")
    done, total = sum(run.done for run in runs), sum(run.total for run in runs)
    console.print(f"{len(runs)} run(s): {counted}; {done} of {total} utterances", highlight=False)
