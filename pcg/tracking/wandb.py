"""The Weights & Biases logger. By default it is offline: W&B's run is then complete in the folder of the result."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pcg.constraints import ABOVE_0, FROM_0, Constraint, matching
from pcg.files import marked, within
from pcg.types import Input, Result

if TYPE_CHECKING:
    from pcg.tracking.session import Session  # half a second, which a command that logs nothing need not spend

# What belongs in W&B's config, beside the resolved config, rather than in its summary.
_ABOUT = ("versions", "git", "overrides", "schema", "device", "started", "failures", "figures")

SWEEP, AGENTS_RUN = "WANDB_SWEEP_ID", "WANDB_RUN_ID"  # in the environment of what an agent of a W&B sweep starts

_PROJECT = matching(r"[^/\\#?%:\r\n]{1,128}", "1 to 128 characters without / \\ # ? % and :")
_TAGS = Constraint(lambda tags: all(0 < len(tag) <= 64 for tag in tags), "of 1 to 64 characters each")


class WandB:
    """Logs runs to W&B: config, history (a step an utterance), summary, the groups' sizes, a table of utterances with
    audio and token timelines, result.json as an artifact. docs/wandb.md has every key.

    Args:
        project: W&B project.
        entity: user or team; None is the account's default.
        mode: ``offline`` writes files only (`wandb sync` sends them later); ``online``; ``disabled`` does nothing.
        live: whether a run is logged while it decodes; else when it has finished.
        artifacts: ``results`` keeps result.json as an artifact; ``all`` also the checkpoints that the run read and the
            groups that it built; ``none`` nothing.
        tags: added to the method's name.
        audio: how many utterances, from the first, go into the table, with their audio.
        timelines: how many of these get a picture of their token timeline.
        timeout: seconds to wait at the end until W&B has taken everything. The rest stays under the run's folder, for
            `wandb sync`. A run never waits for W&B while it decodes (``pcg.tracking.session``).
    """

    def __init__(
        self,
        project: Annotated[str, _PROJECT] = "pcg",
        entity: str | None = None,
        mode: Literal["offline", "online", "disabled"] = "offline",
        live: bool = True,
        artifacts: Literal["results", "all", "none"] = "results",
        tags: Annotated[Sequence[str], _TAGS] = (),
        audio: Annotated[int, FROM_0] = 20,
        timelines: Annotated[int, FROM_0] = 8,
        timeout: Annotated[float, ABOVE_0] = 300,
    ) -> None:
        self.project, self.entity, self.mode, self.tags = project, entity, mode, list(tags)
        self.live, self.artifacts, self.disabled = live, artifacts, mode == "disabled"
        self.logs_inputs = artifacts == "all"
        self.audio, self.timelines, self.timeout = audio, timelines, timeout

    @property
    def awaited(self) -> bool:
        """Whether an agent of a W&B sweep has started this process, and waits for the figures of its run."""
        return bool(os.environ.get(SWEEP))

    def begin(self, about: Mapping[str, Any], folder: Path, live: bool = True) -> LiveRun:
        """Begin a run of W&B. Its id is that of the result: a run that is started again goes on, and one that is logged
        again is replaced. A run that an agent has started has the agent's id.

        Args:
            about: what ``result.json`` says of the run before it has decoded.

        Raises:
            Exception: whatever W&B raises.
        """
        from pcg.tracking.session import Session

        by_agent = os.environ.get(SWEEP) is not None
        init = {
            "project": None if by_agent else self.project,
            "entity": None if by_agent else self.entity,
            "id": os.environ.get(AGENTS_RUN, _run_name(about)) if by_agent else _run_name(about),
            "group": within(about["study"], 128),
            "job_type": "run",
            "name": within(f"{about['label']}-{about['run_id'][:4]}", 128),
            "tags": [*self.tags, about["method"]],
            "config": {**about["config"], **_about(about)},
        }
        return LiveRun(self, Session(init, self.mode == "online", folder, self.timeout, live), folder)

    def log_study(
        self,
        name: str,
        folder: Path,
        results: Sequence[Result],
        frontier: tuple[list[str], list[list[Any]]] | None,
        page: str | None,
    ) -> None:
        """Log a study as one run of W&B; logged again when the study has grown it is the same run.

        Args:
            folder: of its report: ``table.csv``, ``table.md``, figures as PNG.
            frontier: columns and rows: a method's name, a figure of speed, a figure of quality.
            page: the listening page with its audio inside; None without audio, or where none may be sent.

        Raises:
            Exception: whatever W&B raises; the report is on disk.
        """
        from pcg.tracking import study
        from pcg.tracking.session import Session

        init = {
            "project": self.project,
            "entity": self.entity,
            "id": f"{_plain(name)}-study",
            "group": within(name, 128),
            "job_type": "study",
            "name": within(name, 128),
            "tags": [*self.tags, "study"],
            "config": {"study": name, "runs": {result.values["run_id"]: result.values["label"] for result in results}},
        }
        inputs = [f"result-{_run_name(result.values)}" for result in results]
        session = Session(init, self.mode == "online", folder, self.timeout, live=False)
        session.tell(lambda run: study.describe(run, name, folder, results, frontier, page))
        if self.artifacts != "none":
            session.tell(lambda run: study.log_artifact(run, f"study-{_plain(name)}", folder, results, inputs))
        session.end()


class LiveRun:
    """A run of W&B, begun; see ``pcg.interfaces.LiveRun``."""

    def __init__(self, logger: WandB, session: Session, folder: Path) -> None:
        self._logger, self._session, self._folder = logger, session, folder
        self._inputs: dict[str, str] = {}
        self._session.tell(_define)

    def add(self, step: int, utterance: Mapping[str, Any], so_far: Mapping[str, float]) -> None:
        values = {**_numbers("utterance", utterance), **_numbers("run", so_far)}

        def log(run: Any) -> None:
            if step >= getattr(run, "starting_step", 0):  # W&B has it of an earlier start
                run.log(values, step=step)

        self._session.tell(log)

    def log_inputs(self, inputs: Sequence[Input]) -> None:
        """What the run rests on, as artifacts by content."""
        from pcg.tracking.inputs import log_inputs

        self._inputs = {key: one.name for one in inputs for key in one.keys}
        self._session.tell(lambda run: log_inputs(run, inputs, self._logger.timeout))

    def finish(self, result: Result, utterances: Sequence[Mapping[str, Any]], objective: float | None = None) -> None:
        """Log the result and end W&B's run. Raises what W&B raises; the result is on disk."""
        from pcg.tracking.media import group_sizes, table

        values, logger = result.values, self._logger

        def complete(run: Any) -> None:
            import wandb

            run.config.update(_about(values), allow_val_change=True)
            shown = table(utterances, self._folder, logger.audio, logger.timelines)
            run.log({"utterances": shown, **group_sizes(values)})
            run.summary.update(flatten({key: values[key] for key in values if key not in ("config", *_ABOUT)}))
            run.summary.update({"state": "finished", "reason": None, "objective": objective})
            if logger.artifacts != "none":
                rests_on = {"inputs": self._inputs} if self._inputs else None
                artifact = wandb.Artifact(f"result-{_run_name(values)}", type="result", metadata=rests_on)
                artifact.add_file(str(self._folder / "result.json"))
                run.log_artifact(artifact)

        self._session.tell(complete)
        self._session.end()

    def stop(self, state: Literal["failed", "stopped"], reason: str) -> None:
        """The run has ended without a result."""
        self._session.tell(lambda run: run.summary.update({"state": state, "reason": reason}))
        self._session.end(exit_code=130 if state == "stopped" else 1)


def _define(run: Any) -> None:
    """Charts of a run's figures so far go over utterances; those of single utterances are in no summary."""
    run.define_metric("utterance/*", summary="none")
    run.define_metric("run/*", summary="last")


def _run_name(values: Mapping[str, Any]) -> str:
    """Study and run id."""
    return f"{_plain(values['study'])}-{values['run_id']}"


def _plain(study: str) -> str:
    """A study's name in letters that W&B takes in the names of runs and of artifacts, and no more than it takes."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", study)
    return within(plain, 100) if plain == study else marked(plain, 100, study)


def flatten(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists become one key an item."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{path}{key}.")
        else:
            flat[f"{path}{key}"] = value
    return flat


def _about(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is there of it so far. ``device_name``: the config has a ``device`` of its own."""
    return {"device_name" if key == "device" else key: values[key] for key in _ABOUT if key in values}


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
