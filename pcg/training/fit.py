"""The one place where Lightning's Trainer is set up: resumable, quiet, the same on CPU and GPU, on one device or many.

On several, Lightning starts the same command once more for each further one, every one reads its own share of the
batches (``pcg.training.sequences.Batches``), and gradients are averaged; the first writes what is written.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning as L
import torch
from torch.utils.data import DataLoader

from pcg.tracking.training import Mode, TrainingLog

log = logging.getLogger(__name__)


class _Checkpoint(L.Callback):
    """Saves the trainer's state and the exported model every so many steps and at the end, atomically."""

    def __init__(self, path: Path, every: int, export: Callable[[], None]) -> None:
        self.path, self.every, self.export = path, every, export
        self.batches, self.started = 0, time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.batches += 1
        if self.batches % 50 == 0 and trainer.is_global_zero:
            figures = " ".join(f"{k} {float(v):.4g}" for k, v in trainer.callback_metrics.items())
            step, seconds = module.get_buffer("trained").item(), time.monotonic() - self.started
            log.info("%s: step %d (%.0f s) %s", _name(self.path), step, seconds, figures)
        if self.batches % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        part = self.path.with_name(f"{_name(self.path)}.part")
        trainer.save_checkpoint(part)  # all devices
        if trainer.is_global_zero:
            os.replace(part, self.path)
            self.export()


def _checkpoint(out: str) -> Path:
    """Beside the folder: its whole name, dots and all, and ``.ckpt``."""
    return Path(out).with_name(f"{Path(out).name}.ckpt")


def _name(checkpoint: Path) -> str:
    return checkpoint.name.removesuffix(".ckpt")


def _state(out: str) -> dict[str, Any] | None:
    """What the checkpoint beside ``out`` holds of the module.

    Raises:
        ValueError: it cannot be read; naming it.
    """
    path = _checkpoint(out)
    if not path.exists():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True)["state_dict"])
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is cut short or no checkpoint ({error}): remove it to begin anew") from error


def resumed_at(out: str) -> int:
    """The step that the checkpoint beside ``out`` was taken at, 0 without one: seeds the data that follow."""
    state = _state(out)
    return 0 if state is None else int(state["trained"])


class Stage(Protocol):
    """What every stage that trains is told of how: conf/trainer/*.yaml.

    Attributes:
        out: the folder of its model.
        steps: how many it is trained for.
        accelerator, precision: Lightning's.
        devices: how many train together.
        wandb: whether its figures go to W&B, and how.
        checkpoint_every: steps.
    """

    @property
    def out(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def devices(self) -> int: ...
    @property
    def wandb(self) -> Mode: ...
    @property
    def checkpoint_every(self) -> int: ...


def fit(
    stage: Stage, module: L.LightningModule, loader: DataLoader, max_steps: int, export: Callable[[], None]
) -> None:
    """Train up to ``max_steps`` optimiser steps, from the checkpoint beside the stage's ``out`` if there is one.

    A training that is finished is told to be, and its folder is written where it is missing.

    Args:
        export: writes the model folder; called with every checkpoint.
    """
    checkpoint, state = _checkpoint(stage.out), _state(stage.out)
    if state is not None and int(state["trained"]) >= stage.steps:
        _finished(stage, module, state, export)
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer = L.Trainer(
        max_steps=max_steps,
        accelerator=stage.accelerator,
        devices=stage.devices,
        strategy="auto" if stage.devices == 1 else "ddp",
        precision=stage.precision,  # type: ignore[arg-type]
        callbacks=[_Checkpoint(checkpoint, stage.checkpoint_every, export)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=_logger(stage),
        log_every_n_steps=1,  # the modules say at which steps
    )
    resume = str(checkpoint) if checkpoint.exists() else None
    if resume:
        log.info("%s: resuming", _name(checkpoint))
    trainer.fit(module, loader, ckpt_path=resume)


def _finished(stage: Stage, module: L.LightningModule, state: dict[str, Any], export: Callable[[], None]) -> None:
    log.info(
        "%s: already trained, %d steps of trainer.steps=%d; more steps go on, another trainer.out begins anew",
        Path(stage.out).name, int(state["trained"]), stage.steps,
    )  # fmt: skip
    if not Path(stage.out).is_dir() and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        module.load_state_dict(state)
        export()
        log.info("%s: its folder was missing and is written from the checkpoint", stage.out)


def _logger(stage: Stage) -> TrainingLog | Literal[False]:
    """W&B is given what the stage was told."""
    if stage.wandb == "disabled":
        return False
    told = {field.name: getattr(stage, field.name) for field in fields(stage)}  # type: ignore[arg-type]
    return TrainingLog(stage.wandb, Path(stage.out).parent, Path(stage.out).name, told)
