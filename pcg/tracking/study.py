"""A study as one run of W&B: its table, figures, frontier, listening page, and an artifact of its results."""

from __future__ import annotations

import csv
import html
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb

from pcg.types import Result

log = logging.getLogger(__name__)
Frontier = tuple[list[str], list[list[Any]]]  # columns and rows


@dataclass(frozen=True)
class Study:
    """What a study's report folder holds, and what is not read from it.

    Attributes:
        folder: of the report: ``table.csv``, ``table.md``, figures as PNG.
        frontier: columns and rows: a method's name, a figure that says how fast, one that says how good.
        page: the listening page with its audio inside; None where there is nothing to hear, or nothing may be sent.
    """

    name: str
    folder: Path
    results: Sequence[Result]
    frontier: Frontier | None
    page: str | None


def describe(run: Any, study: Study) -> None:
    """Log all of it to a run of W&B."""
    told: dict[str, Any] = {"table": _table(study.folder / "table.csv")}
    text = (study.folder / "table.md").read_text(encoding="utf-8")
    told["report"] = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
    told |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(study.folder.glob("*.png"))}
    if study.frontier is not None:
        columns, rows = study.frontier
        table = wandb.Table(columns=list(columns), data=rows)
        told["frontier"] = wandb.plot.scatter(table, x=columns[1], y=columns[2], title=f"{study.name}: the frontier")
    if study.page is not None:
        told["listen"] = wandb.Html(study.page, inject=False)
    run.log(told)
    run.summary.update({"runs": len(study.results), "state": "finished"})


def keep(run: Any, study: Study, name: str, inputs: Sequence[str]) -> None:
    """An artifact of the table and every result.json.

    Args:
        inputs: names of the artifacts of its runs, which W&B shows as what it was made of. Offline they stand in its
            metadata only: W&B has no links between artifacts that it does not have yet.
    """
    artifact = wandb.Artifact(name, type="study", metadata={"inputs": list(inputs)})
    artifact.add_file(str(study.folder / "table.csv"))
    for result in study.results:
        artifact.add_file(str(Path(result.folder) / "result.json"), name=f"{result.values['run_id']}/result.json")
    if not run.offline:
        for one in inputs:
            try:
                run.use_artifact(f"{one}:latest")
            except Exception as error:  # its run was offline, or is of another project
                log.info("artifact %s is not on W&B: %s", one, error)
    run.log_artifact(artifact)


def _table(path: Path) -> wandb.Table:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return wandb.Table(
        columns=list(header), data=[[_value(cell) for cell in row] for row in rows], allow_mixed_types=True
    )


def _value(cell: str) -> float | str | None:
    """A number where it is one."""
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
