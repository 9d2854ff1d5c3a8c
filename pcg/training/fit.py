"""The one place where Lightning's Trainer is set up: resumable, quiet, the same on CPU and GPU."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from torch.utils.data import DataLoader

log = logging.getLogger(__name__)


class _Checkpoint(L.Callback):
    """Saves the trainer's state and the exported model every so many steps and at the end, atomically."""

    def __init__(self, path: Path, every: int, export: Callable[[], None]) -> None:
        self.path, self.every, self.export = path, every, export
        self.batches, self.started = 0, time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.batches += 1
        if self.batches % 50 == 0:
            figures = " ".join(f"{k} {float(v):.4g}" for k, v in trainer.callback_metrics.items())
            step, seconds = module.get_buffer("trained").item(), time.monotonic() - self.started
            log.info("%s: step %d (%.0f s) %s", self.path.stem, step, seconds, figures)
        if self.batches % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        part = self.path.with_suffix(".part")
        trainer.save_checkpoint(part)
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
        checkpoint_every: steps.
    """

    @property
    def out(self) -> str: ...
    @property
    def accelerator(self) -> str: ...
    @property
    def precision(self) -> str: ...
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
        devices=1,
        precision=stage.precision,  # type: ignore[arg-type]
        callbacks=[_Checkpoint(checkpoint, stage.checkpoint_every, export)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    resume = str(checkpoint) if checkpoint.exists() else None
    if resume:
        log.info("%s: resuming", checkpoint.stem)
    trainer.fit(module, loader, ckpt_path=resume)
