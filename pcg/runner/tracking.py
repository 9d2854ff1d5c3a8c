"""Logs runs, while they decode and when they have finished. A result is on disk before a logger sees it.

A logger that fails is reported once, gets nothing more of the run, and costs nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pcg.config.build import build, is_built
from pcg.config.fingerprint import inputs
from pcg.config.settings import Node
from pcg.files import cache_folder
from pcg.groups.cache import file_of
from pcg.interfaces import LiveRun, Logger
from pcg.results import figures, store
from pcg.results.records import peek
from pcg.results.rows import utterance_rows
from pcg.runner.objective import worth
from pcg.runner.progress import SoFar
from pcg.types import Input, Result

log = logging.getLogger("pcg")


class Tracker:
    """Logs one run. Used as a context, it also logs why the run ended without a result.

    Args:
        logger: None logs nothing.
        about: what ``result.json`` says of the run before it has decoded.
        objective: of a search; what the run is worth to it is logged with the result.
        live: whether the run is about to decode; else only ``finish`` is called.
    """

    def __init__(
        self,
        logger: Node | None,
        about: Mapping[str, Any],
        folder: Path,
        objective: Mapping[str, Any] | None = None,
        live: bool = True,
    ) -> None:
        self._folder, self._study, self._objective = folder, about["study"], objective
        self._logger: Logger | None = None
        self._run: LiveRun | None = None
        self.failed = False
        if is_built(logger):
            self._try(lambda: self._build(logger))
        if live and self._logger is not None and self._logger.live:
            self._try(lambda: self._begin(about, live=True))

    def _build(self, logger: Node) -> None:
        built: Logger = build(logger)
        if not getattr(built, "disabled", False):
            self._logger = built

    def _begin(self, about: Mapping[str, Any], live: bool) -> None:
        assert self._logger is not None
        self._run = self._logger.begin(about, self._folder, live)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run, self._run = self._run, None
        if error is None or run is None:
            return
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        reason = "stopped; the same command goes on" if stopped else f"{type(error).__name__}: {error}"
        self._try(lambda: run.stop("stopped" if stopped else "failed", reason))

    def add(self, line: Mapping[str, Any], so_far: SoFar) -> None:
        """Log a batch that is on disk: a step for each of its utterances, in the order of the records."""
        step = so_far.add(line)
        run = self._run
        if run is not None:
            shown = so_far.figures()
            rows = utterance_rows([line])

            def add_rows() -> None:
                for index, row in enumerate(rows):
                    run.add(step + index, row, shown)

            self._try(add_rows)

    def finish(self, result: Result, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the result, which is on disk, and first the steps if they have not been logged."""
        if self._run is None and self._logger is not None and not self.failed:
            self._try(lambda: self._begin_late(result, len(rows)))
        run, self._run = self._run, None
        if run is not None:
            self._try(lambda: self._finish(run, result, rows))

    def _finish(self, run: Any, result: Result, rows: Sequence[Mapping[str, Any]]) -> None:
        if getattr(self._logger, "logs_inputs", False):
            run.log_inputs(_inputs(result.values))
        run.finish(result, rows, worth(self._objective, result.values) if self._objective else None)

    def _begin_late(self, result: Result, utterances: int) -> None:
        self._begin(result.values, live=False)
        so_far = SoFar(utterances, figures.declared(result.values))
        for line in peek(self._folder / "batches.jsonl"):
            self.add(line, so_far)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self.failed, self._run = True, None
            log.warning(
                "the logger failed (%s: %s). The result is safe in %s; log it again with "
                "`pcg relog study=%s`",
                type(error).__name__, error, self._folder, self._study,
            )  # fmt: skip
            log.debug("the logger failed", exc_info=True)


def _inputs(values: Mapping[str, Any]) -> list[Input]:
    """The checkpoints that a run read, and its groups if pcg's cache still has them."""
    of_run, key = list(inputs(values["config"])), (values.get("groups") or {}).get("key")
    if key is not None:
        file = file_of(key, cache_folder())
        if file.is_file():
            of_run.append(Input("groups", key, ("grouping.groups",), {"groups.safetensors": file}))
        else:
            log.warning("%s is gone: the run's groups are not kept as an artifact", file)
    return of_run


def log_finished(logger: Node | None, result: Result, objective: Mapping[str, Any] | None = None) -> bool:
    """Log a finished run as if the logger had seen it decode; returns whether the logger took all of it."""
    folder = Path(result.folder)
    tracker = Tracker(logger, result.values, folder, objective, live=False)
    tracker.finish(result, store.read_utterances(folder))
    return not tracker.failed


def log_for_agent(logger: Node | None, result: Result, objective: Mapping[str, Any] | None) -> None:
    """Log a run that was finished before this process began, where the agent of a sweep waits for it."""
    if is_built(logger) and getattr(build(logger), "awaited", False):
        log_finished(logger, result, objective)


def log_again(study_folder: Path, logger: Node | None) -> None:
    """Log every finished run of a study.

    Raises:
        ValueError: the study has no finished run.
        RuntimeError: the logger did not take some of them; each reason has been logged.
    """
    results = store.read_study(study_folder)
    if not results:
        raise ValueError(f"{study_folder}: no finished runs")
    lost = 0
    for result in results:
        if log_finished(logger, result):
            log.info("logged %s", result.folder)
        else:
            lost += 1
    if lost:
        raise RuntimeError(f"{lost} of {len(results)} runs could not be logged")
