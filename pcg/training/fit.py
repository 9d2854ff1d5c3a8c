"""The one place where Lightning's Trainer is set up: resumable, quiet, the same on CPU and GPU, on one device or many.

On several, Lightning starts the same command once more for each further one, every one reads its own share of the
batches (``pcg.training.sequences.Batches``), and gradients are averaged; the first writes what is written.
"""

from __future__ import annotations

import logging
import os
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
            log.info("%s: step %d (%.0f s) %s", self.path.stem, step, seconds, figures)
        if self.batches % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)  # all devices
        if trainer.is_global_zero:
            os.replace(part, self.path)
            self.export()


def _checkpoint(out: str) -> Path:
    return Path(out).with_suffix(".ckpt")


def resumed_at(out: str) -> int:
    """The step that the checkpoint beside ``out`` was taken at, 0 without one: seeds the data that follow."""
    path = _checkpoint(out)
    return int(torch.load(path, map_location="cpu", weights_only=True)["state_dict"]["trained"]) if path.exists() else 0


class Stage(Protocol):
    """What every stage that trains is told of how: conf/trainer/*.yaml.

    Attributes:
        out: the folder of its model.
        accelerator, precision: Lightning's.
        devices: how many train together.
        wandb: whether its figures go to W&B, and how.
        checkpoint_every: steps.
    """

    @property
    def out(self) -> str: ...
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

    Args:
        export: writes the model folder; called with every checkpoint.
    """
    checkpoint = _checkpoint(stage.out)
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
        log.info("%s: resuming", checkpoint.stem)
    trainer.fit(module, loader, ckpt_path=resume)


def _logger(stage: Stage) -> TrainingLog | Literal[False]:
    """W&B is given what the stage was told."""
    if stage.wandb == "disabled":
        return False
    told = {field.name: getattr(stage, field.name) for field in fields(stage)}  # type: ignore[arg-type]
    return TrainingLog(stage.wandb, Path(stage.out).parent, Path(stage.out).name, told)
