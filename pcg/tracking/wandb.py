"""Weights & Biases. Offline unless told otherwise: the run then lies complete in the result's folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pcg.constraints import ABOVE_0, FROM_0, Constraint, matching
from pcg.names import marked, within
from pcg.types import Result

if TYPE_CHECKING:
    import wandb  # half a second, which a command that logs nothing need not spend

# What belongs in W&B's config, beside the resolved config, rather than in its summary.
_ABOUT = ("versions", "git", "overrides", "schema", "device", "started", "failures", "figures")

_PROJECT = matching(r"[^/\\#?%:\r\n]{1,128}", "1 to 128 characters without / \\ # ? % and :")
_TAGS = Constraint(lambda tags: all(0 < len(tag) <= 64 for tag in tags), "of 1 to 64 characters each")


class WandB:
    """Logs a finished run: config, history (a step an utterance), summary, the groups' sizes, a table of utterances
    with audio and token timelines, result.json as an artifact.

    Args:
        project: W&B project.
        entity: user or team; None is the account's default.
        mode: ``offline`` writes files only (`wandb sync` sends them later); ``online``; ``disabled`` does nothing.
        tags: added to the method's name.
        audio: how many utterances, from the first, go into the table, with their audio.
        timelines: how many of these get a picture of their token timeline.
        timeout: seconds to wait for W&B to start, and again for it to take everything at the end. What it has not
            taken then lies under the run's folder, for `wandb sync`.
    """

    def __init__(
        self,
        project: Annotated[str, _PROJECT] = "pcg",
        entity: str | None = None,
        mode: Literal["offline", "online", "disabled"] = "offline",
        tags: Annotated[Sequence[str], _TAGS] = (),
        audio: Annotated[int, FROM_0] = 20,
        timelines: Annotated[int, FROM_0] = 8,
        timeout: Annotated[float, ABOVE_0] = 300,
    ) -> None:
        self.project, self.entity, self.mode, self.tags = project, entity, mode, list(tags)
        self.audio, self.timelines, self.timeout = audio, timelines, timeout

    def log(self, result: Result, utterances: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Log once; the run's id is that of the result, so that logging again replaces it online.

        Raises:
            Exception: whatever W&B raises, an outage or a time-out among it; the result itself is safe on disk.
        """
        if self.mode == "disabled":
            return
        import wandb

        from pcg.tracking.media import group_sizes, table

        values = result.values
        with _kept_in(folder):
            run = self._start(values, folder)
            try:
                for step, row in enumerate(utterances):
                    run.log(_history(row), step=step)
                shown = table(utterances, folder, self.audio, self.timelines)
                run.log({"utterances": shown, **group_sizes(values)})
                run.summary.update(flatten({key: values[key] for key in values if key not in ("config", *_ABOUT)}))
                artifact = wandb.Artifact(f"result-{_run_name(values)}", type="result")
                artifact.add_file(str(folder / "result.json"))
                run.log_artifact(artifact)
            except BaseException:
                run.finish(exit_code=1)
                raise
            run.finish()

    def _start(self, values: Mapping[str, Any], folder: Path) -> Any:
        import wandb

        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=_run_name(values),
            group=within(values["study"], 128),
            job_type="run",
            name=within(f"{values['label']}-{values['run_id'][:4]}", 128),
            tags=[*self.tags, values["method"]],
            dir=str(folder),
            config={**values["config"], **_about(values)},
            settings=settings(self.timeout),
        )


def settings(timeout: float) -> wandb.Settings:
    """Quiet, and not patient without end."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        x_disable_stats=True,
        login_timeout=timeout,
        init_timeout=timeout,
        finish_timeout=timeout,
        finish_timeout_raises=True,
    )


def _run_name(values: Mapping[str, Any]) -> str:
    """Study and run id, of letters that W&B takes in the names of runs and of artifacts, and no more than it takes."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", values["study"])
    name = within(plain, 100) if plain == values["study"] else marked(plain, 100, values["study"])
    return f"{name}-{values['run_id']}"


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
    """``device_name``: the config has a ``device`` of its own."""
    return {"device_name" if key == "device" else key: values[key] for key in _ABOUT}


def _history(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: value for key, value in row.items() if isinstance(value, int | float) and value is not None}
    return {f"utterance/{key}": value for key, value in numbers.items()}


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """Everything that W&B writes, staged audio and caches included, under the run's folder."""
    places = {
        name: str(folder / "wandb" / name.lower())
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR")
    }
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(places)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
