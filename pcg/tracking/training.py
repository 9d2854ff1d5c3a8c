"""Logs the figures of a training to Weights & Biases, by Lightning's own logger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from pcg.tracking.session import settings

log = logging.getLogger(__name__)

Mode = Literal["offline", "online", "disabled"]


class TrainingLog(Logger):
    """Logs each start of a stage as one W&B run. The starts of a stage are a group, and their steps continue.

    An error of W&B is reported once, and nothing is logged after it; the training goes on.

    Args:
        mode: ``offline`` or ``online``, as of a run.
        folder: W&B's run is in ``folder/wandb``.
        name: of the stage's model.
        config: of the stage.
    """

    name, version = "wandb", None

    def __init__(self, mode: Mode, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._failed, self._last = False, dict[str, float]()
        self._inner = WandbLogger(
            name=name, save_dir=folder, offline=mode == "offline", project="pcg", group=name, job_type="train",
            config=dict(config), settings=settings(timeout=300),
        )  # fmt: skip

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the figures that are new: Lightning repeats those of earlier steps."""
        new = {key: value for key, value in metrics.items() if key != "epoch" and value != self._last.get(key)}
        self._last |= new
        if new:
            self._try(lambda: self._inner.log_metrics(new, step))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: the stage's config has been logged, which has more than the module's."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if wandb.run is not None:
            self._try(lambda: self._inner.experiment.finish(exit_code=int(status != "success")))

    def _try(self, act: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            log.warning("W&B failed, the training goes on without it: %s: %s", type(error).__name__, error)
