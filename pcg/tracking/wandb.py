"""Weights & Biases. Offline unless told otherwise: the run then lies complete in the result's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import wandb

from pcg.types import Result

# What belongs in W&B's config rather than in its summary.
_CONFIG = ("config", "versions", "git", "overrides", "schema", "device", "started", "failures")


class WandB:
    """Logs a finished run: config, history (a step an utterance), summary, audio table, result.json as an artifact.

    Args:
        project: W&B project.
        entity: user or team; None is the account's default.
        mode: ``offline`` writes files only (`wandb sync` sends them later); ``online``; ``disabled`` does nothing.
        tags: added to the method's name.
        audio: how many utterances' audio goes into the table.
    """

    def __init__(
        self,
        project: str = "pcg",
        entity: str | None = None,
        mode: Literal["offline", "online", "disabled"] = "offline",
        tags: Sequence[str] = (),
        audio: int = 20,
    ) -> None:
        self.project, self.entity, self.mode, self.tags, self.audio = project, entity, mode, list(tags), audio

    def log(self, result: Result, utterances: Sequence[Mapping[str, Any]], folder: Path) -> None:
        """Log once; the run's id is that of the result, so that logging again replaces it online.

        Raises:
            Exception: whatever W&B raises, an outage among it; the result itself is safe on disk.
        """
        if self.mode == "disabled":
            return
        values = result.values
        with _kept_in(folder):
            run = self._start(values, folder)
            try:
                for step, row in enumerate(utterances):
                    run.log(_history(row), step=step)
                run.log({"utterances": self._table(utterances, folder)})
                run.summary.update(flatten({key: item for key, item in values.items() if key not in _CONFIG}))
                artifact = wandb.Artifact(f"result-{values['study']}-{values['run_id']}", type="result")
                artifact.add_file(str(folder / "result.json"))
                run.log_artifact(artifact)
            except BaseException:
                run.finish(exit_code=1)
                raise
            run.finish()

    def _start(self, values: Mapping[str, Any], folder: Path) -> Any:
        return wandb.init(
            project=self.project,
            entity=self.entity,
            mode=self.mode,
            id=f"{values['study']}-{values['run_id']}",
            group=values["study"],
            job_type="run",
            name=f"{values['label']}-{values['run_id'][:4]}",
            tags=[*self.tags, values["method"]],
            dir=str(folder),
            config={**values["config"], **{key: values[key] for key in _CONFIG[1:] if key in values}},
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )

    def _table(self, utterances: Sequence[Mapping[str, Any]], folder: Path) -> wandb.Table:
        """All plain columns of the utterances, and the audio of the first few."""
        rows = utterances[: self.audio]
        plain = [
            key
            for key in (rows[0] if rows else {})
            if key != "audio" and not any(isinstance(row[key], list | tuple | dict) for row in rows)
        ]
        data = [[*[row[key] for key in plain], _audio(row, folder)] for row in rows]
        return wandb.Table(columns=[*plain, "audio"], data=data)


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


def _history(row: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {key: value for key, value in row.items() if isinstance(value, int | float) and value is not None}
    return {f"utterance/{key}": value for key, value in numbers.items()}


def _audio(row: Mapping[str, Any], folder: Path) -> Any:
    path = row.get("audio")
    return wandb.Audio(str(folder / path)) if path else None


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
