"""A study as one run of W&B: its table, figures, frontier, listening page, and an artifact of its results."""

from __future__ import annotations

import csv
import html
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb

from pcg.types import Result

log = logging.getLogger(__name__)
Frontier = tuple[list[str], list[list[Any]]]  # columns and rows


def describe(
    run: Any, name: str, folder: Path, results: Sequence[Result], frontier: Frontier | None, page: str | None
) -> None:
    """Log a study's report to a run of W&B; ``WandB.log_study`` describes the arguments."""
    logged: dict[str, Any] = {"table": _table(folder / "table.csv")}
    text = (folder / "table.md").read_text(encoding="utf-8")
    logged["report"] = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
    logged |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    if frontier is not None:
        columns, rows = frontier
        table = wandb.Table(columns=list(columns), data=rows)
        logged["frontier"] = wandb.plot.scatter(table, x=columns[1], y=columns[2], title=f"{name}: the frontier")
    if page is not None:
        logged["listen"] = wandb.Html(page, inject=False)
    run.log(logged)
    run.summary.update({"runs": len(results), "state": "finished"})


def log_artifact(run: Any, name: str, folder: Path, results: Sequence[Result], inputs: Sequence[str]) -> None:
    """Log an artifact of the table and every result.json.

    Args:
        name: of the artifact.
        inputs: names of the artifacts of the study's runs. Online they become its inputs. Offline they are only in its
            metadata, since W&B cannot link artifacts that it does not have yet.
    """
    artifact = wandb.Artifact(name, type="study", metadata={"inputs": list(inputs)})
    artifact.add_file(str(folder / "table.csv"))
    for result in results:
        artifact.add_file(str(Path(result.folder) / "result.json"), name=f"{result.values['run_id']}/result.json")
    for one in [] if run.offline else inputs:
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
    """The number in a cell; its text where it is none, None where it is empty."""
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError:
        return cell
