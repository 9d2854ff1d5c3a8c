"""The inputs of a run (checkpoints, groups) as artifacts of W&B, named by their content, which is uploaded once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import wandb

from pcg.types import Input


def log_inputs(run: Any, inputs: Sequence[Input], timeout: float) -> None:
    """Log the inputs of a run of W&B.

    Offline W&B has no inputs: they are logged as artifacts of the run, and the metadata of its result names them.

    Args:
        timeout: seconds that the service has for each.

    Raises:
        TimeoutError: the service has not taken one in time.
    """
    for one in inputs:
        artifact = _artifact(one)
        if run.offline:
            run.log_artifact(artifact)
        else:
            _within(timeout, one.name, partial(run.use_artifact, artifact))


def _artifact(one: Input) -> wandb.Artifact:
    """An artifact of the input's files, which are not copied; of a public model only its name and digest."""
    artifact = wandb.Artifact(one.name, type=one.kind)
    for name, file in one.files.items():
        artifact.add_file(str(file), name=name, policy="immutable")
    if one.source is not None:
        with artifact.new_file("source.json") as named:
            json.dump({"source": one.source, "digest": one.digest}, named)
    return artifact


def _within(seconds: float, name: str, act: Callable[[], object]) -> None:
    """Run ``act`` in a thread with a limit of time, since W&B waits for the service without one."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    waiting = threading.Thread(target=run, daemon=True, name="wandb-artifact")
    waiting.start()
    waiting.join(seconds)
    if waiting.is_alive():
        raise TimeoutError(f"W&B has not taken {name} in {seconds:g} s")
    if failed:
        raise failed[0]
