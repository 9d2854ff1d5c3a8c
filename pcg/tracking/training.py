"""The figures of a training to Weights & Biases, by Lightning's own logger. Offline unless told otherwise."""

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
    """What a stage logs, as one W&B run a start; a stage's starts are a group, and their steps go on.

    A failure of W&B is told once, after which nothing is logged any more: it costs no training.

    Args:
        mode: ``offline`` or ``online``, as of a run.
        folder: the run lies in ``folder/wandb``.
        name: of the stage's model.
        config: what the stage was told.
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
        """At each step Lightning repeats what was logged at earlier ones."""
        new = {key: value for key, value in metrics.items() if key != "epoch" and value != self._last.get(key)}
        self._last |= new
        if new:
            self._try(lambda: self._inner.log_metrics(new, step))

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The stage's config says more than the module's."""

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
