"""Telling a logger of runs: while they decode, and of their results, which are on disk before.

A logger that fails is reported once, is told no more of the run, and costs nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pcg.config.build import build, is_built
from pcg.config.settings import Node
from pcg.interfaces import LiveRun
from pcg.results import figures, store
from pcg.results.records import peek
from pcg.runner.objective import worth
from pcg.runner.so_far import SoFar
from pcg.types import Result

log = logging.getLogger("pcg")


class Tracker:
    """Tells a logger of one run. As a context: what ends it without a result is told too.

    Args:
        logger: None for nobody.
        about: what ``result.json`` says of the run before it has decoded.
        wanted: the ``objective`` of a search, whose worth is told with the result.
        live: whether the run decodes meanwhile; else only ``finish`` is to be called.
    """

    def __init__(
        self,
        logger: Node | None,
        about: Mapping[str, Any],
        folder: Path,
        wanted: Mapping[str, Any] | None = None,
        live: bool = True,
    ) -> None:
        self._folder, self._study, self._wanted = folder, about["study"], wanted
        self._logger: Any = None
        self._run: LiveRun | None = None
        self.failed = False
        if is_built(logger):
            self._try(lambda: self._begin(logger, about, live))

    def _begin(self, logger: Node, about: Mapping[str, Any], live: bool) -> None:
        made: Any = build(logger)
        if getattr(made, "disabled", False):
            return
        self._logger = made
        if live and getattr(self._logger, "live", False):
            self._run = self._logger.begin(about, self._folder, live=True)

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
        """A batch is on disk: a step for each of its utterances, in the order in which they were recorded."""
        step = so_far.add(line)
        run = self._run
        if run is not None:
            shown = so_far.figures()
            rows = store.utterance_rows([line])

            def tell() -> None:
                for index, row in enumerate(rows):
                    run.add(step + index, row, shown)

            self._try(tell)

    def finish(self, result: Result, rows: Sequence[Mapping[str, Any]]) -> None:
        """The result, which is on disk."""
        run, self._run = self._run, None
        if run is not None:
            self._try(lambda: run.finish(result, rows, worth(self._wanted, result.values) if self._wanted else None))
        elif self._logger is not None and not self.failed:
            self._try(lambda: self._log(result, rows))

    def _log(self, result: Result, rows: Sequence[Mapping[str, Any]]) -> None:
        """All at once: to a logger that takes steps, as if it had seen the run decode."""
        if not hasattr(self._logger, "begin"):
            self._logger.log(result, rows, self._folder)
            return
        self._run = self._logger.begin(result.values, self._folder, live=False)
        so_far = SoFar(len(rows), figures.declared(result.values))
        for line in peek(self._folder / "batches.jsonl"):
            self.add(line, so_far)
        self.finish(result, rows)

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


def tell(logger: Node | None, result: Result, wanted: Mapping[str, Any] | None = None) -> bool:
    """Tell a logger of a finished run, as if it had seen it decode; whether it took it."""
    folder = Path(result.folder)
    rows = store.read_utterances(folder)
    tracker = Tracker(logger, result.values, folder, wanted, live=False)
    tracker.finish(result, rows)
    return not tracker.failed


def tell_agent(logger: Node | None, result: Result, wanted: Mapping[str, Any] | None) -> None:
    """Tell the agent of a sweep, where one has started this process, of a run that was done before."""
    if is_built(logger) and getattr(build(logger), "awaited", False):
        tell(logger, result, wanted)


def log_again(study_folder: Path, logger: Node | None) -> None:
    """Tell a logger of every finished run of a study.

    Raises:
        ValueError: there is none.
        RuntimeError: it did not take some of them; why has been logged.
    """
    results = store.read_study(study_folder)
    if not results:
        raise ValueError(f"{study_folder}: no finished runs")
    lost = 0
    for result in results:
        if tell(logger, result):
            log.info("logged %s", result.folder)
        else:
            lost += 1
    if lost:
        raise RuntimeError(f"{lost} of {len(results)} runs could not be logged")
