"""What a run rests on, as artifacts of W&B named by content: it takes each content once, and draws the lineage."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import wandb

from pcg.types import Input


def keep(run: Any, inputs: Sequence[Input], timeout: float) -> None:
    """Tell a run of W&B of its inputs.

    Offline W&B knows no inputs: the artifacts are the run's own there, and its result names them in its metadata.

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
    """Its files where they lie, which no copy is made of; of what has a public name that name alone."""
    artifact = wandb.Artifact(one.name, type=one.kind)
    for name, file in one.files.items():
        artifact.add_file(str(file), name=name, policy="immutable")
    if one.source is not None:
        with artifact.new_file("source.json") as named:
            json.dump({"source": one.source, "digest": one.digest}, named)
    return artifact


def _within(seconds: float, name: str, act: Callable[[], object]) -> None:
    """Do something that waits for the service, in a thread, since W&B gives that wait no end."""
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
