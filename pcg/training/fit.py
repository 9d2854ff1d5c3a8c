"""Trains a module with Lightning's Trainer: resumable, quiet, the same on CPU and GPU, on one device or several.

With several devices Lightning starts the same command once more for each further one. Each reads its own share of the
batches (``pcg.training.sequences.Batches``), gradients are averaged, and the first one writes the files.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pcg.constraints import ABOVE_0, FROM_1
from pcg.tracking.training import Mode, TrainingLog

log = logging.getLogger(__name__)


class _Checkpoint(L.Callback):
    """Saves the trainer's state and the exported model every ``every`` steps and at the end, atomically."""

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
    """The checkpoint beside the folder: the folder's whole name and ``.ckpt``."""
    return Path(out).with_name(f"{Path(out).name}.ckpt")


def _name(checkpoint: Path) -> str:
    return checkpoint.name.removesuffix(".ckpt")


def _state(out: str) -> dict[str, Any] | None:
    """The module's state in the checkpoint beside ``out``; None without a checkpoint.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    path = _checkpoint(out)
    if not path.exists():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state_dict"])
    except (OSError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} is truncated or no checkpoint ({error}): remove it to start again") from error


def resumed_at(out: str) -> int:
    """The step of the checkpoint beside ``out``, 0 without one; it seeds the order of the data after it."""
    state = _state(out)
    return 0 if state is None else int(state["trained"])


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The settings of every stage that trains a model (conf/trainer/*.yaml).

    Args:
        out: folder of the trained model; the checkpoint lies beside it, and a stage that is started again resumes
            from it.
        steps: how many steps the model is trained for.
        learning_rate: the highest of the schedule.
        accelerator, precision: of Lightning's Trainer.
        checkpoint_every: steps between two checkpoints; the model folder is written with each.
        wandb: whether figures go to W&B while it trains.
        devices: how many devices train together.
    """

    out: str
    steps: Annotated[int, FROM_1]
    learning_rate: Annotated[float, ABOVE_0]
    seed: int
    accelerator: str
    precision: str
    checkpoint_every: Annotated[int, FROM_1]
    wandb: Mode = "disabled"
    devices: Annotated[int, FROM_1] = 1


def fit(
    stage: Stage,
    module: L.LightningModule,
    batches: IterableDataset,
    export: Callable[[], None],
    optimizer_steps: int | None = None,
) -> None:
    """Train the module on ``batches``, from the checkpoint beside the stage's ``out`` if there is one.

    A training that is finished is not repeated; its folder is written where it is missing.

    Args:
        export: writes the model folder; called with every checkpoint.
        optimizer_steps: Lightning counts those of each optimiser; two a step where None.
    """
    checkpoint, state = _checkpoint(stage.out), _state(stage.out)
    if state is not None and int(state["trained"]) >= stage.steps:
        _finished(stage, module, state, export)
        return
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    trainer = L.Trainer(
        max_steps=optimizer_steps or 2 * stage.steps,
        accelerator=stage.accelerator,
        devices=stage.devices,
        strategy="auto" if stage.devices == 1 else "ddp",
        precision=stage.precision,  # type: ignore[arg-type]
        callbacks=[_Checkpoint(checkpoint, stage.checkpoint_every, export)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=_logger(stage),
        log_every_n_steps=1,  # the modules decide at which steps
    )
    resume = str(checkpoint) if checkpoint.exists() else None
    if resume:
        log.info("%s: resuming", _name(checkpoint))
    trainer.fit(module, DataLoader(batches, batch_size=None), ckpt_path=resume)


def _finished(stage: Stage, module: L.LightningModule, state: dict[str, Any], export: Callable[[], None]) -> None:
    log.info(
        "%s: already trained, %d steps of trainer.steps=%d; raise trainer.steps, or choose another trainer.out",
        Path(stage.out).name, int(state["trained"]), stage.steps,
    )  # fmt: skip
    if not Path(stage.out).is_dir() and int(os.environ.get("LOCAL_RANK", "0")) == 0:
        module.load_state_dict(state)
        export()
        log.info("%s: the folder was missing and has been written from the checkpoint", stage.out)


def _logger(stage: Stage) -> TrainingLog | Literal[False]:
    """The logger to W&B, which gets the stage's settings too."""
    if stage.wandb == "disabled":
        return False
    settings = {field.name: getattr(stage, field.name) for field in fields(stage)}
    return TrainingLog(stage.wandb, Path(stage.out).parent, Path(stage.out).name, settings)


def optimizers(
    matrices: Iterable[nn.Parameter], rest: Iterable[nn.Parameter], rate: float
) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices (AdamW alone was far slower), AdamW for tables and norms."""
    muon = torch.optim.Muon(list(matrices), rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(list(rest), rate, betas=(0.9, 0.98), weight_decay=0.0)]


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate: rises over 100 steps, stays, falls linearly to 2 % over the second half."""
    return min(1.0, (step + 1) / 100, max(0.02, 2 * (1 - step / steps)))


def take_step(module: Any, loss: Tensor, stage: Stage, largest_gradient: float) -> None:
    """One step of the module's two optimisers at the schedule's rate; ``module.trained`` counts it."""
    both = module.optimizers()
    for optimizer in both:
        optimizer.param_groups[0]["lr"] = stage.learning_rate * schedule(int(module.trained), stage.steps)
        optimizer.zero_grad()
    module.manual_backward(loss)
    nn.utils.clip_grad_norm_(module.parameters(), largest_gradient)
    for optimizer in both:
        optimizer.step()
    module.trained += 1
