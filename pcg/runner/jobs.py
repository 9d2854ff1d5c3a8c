"""A run as the process that works on it sees it: which batches there are, and how one after another is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from pcg.config.run import Run
from pcg.decoding.clock import compiling
from pcg.interfaces import Dataset, Metric
from pcg.results import environment
from pcg.runner.batch import BatchRunner
from pcg.runner.composition import Composition, with_decoder
from pcg.runner.groups import size_report
from pcg.runner.rescore import Line, Scoring
from pcg.runner.scores import ScoreMemo
from pcg.types import Utterance

log = logging.getLogger("pcg")


class Begun(Protocol):
    """A process that has the parts for one kind of work, and does batch after batch."""

    def do(self, index: int) -> Any:
        """The batch's outcome, which travels to other processes."""

    def described(self) -> dict[str, Any]:
        """What the result says of its parts: ``groups`` and ``layouts``."""


class Work(Protocol):
    """Batches to be done: plain values, which travel to other processes. ``Job`` decodes, ``Scoring`` scores."""

    def begun(self, device: torch.device, memo: ScoreMemo, /) -> Begun:
        """Load what it needs.

        Args:
            device: of this process.
        """


@dataclass(frozen=True)
class Job:
    """What a process must know to decode batches of a run; see ``Work``.

    Attributes:
        folder: where ``audio/`` goes, or without a codec ``tokens/``.
    """

    run: Run
    folder: Path

    def begun(self, device: torch.device, memo: ScoreMemo) -> InProcess:
        return InProcess(replace(self, run=self.run.on(device)), memo)

    def runner(self, memo: ScoreMemo) -> BatchRunner:
        """Raises ConfigError: parts that do not fit each other."""
        run = self.run
        parts, decoder = with_decoder(run)
        return BatchRunner(
            parts=parts,
            decoder=decoder,
            max_tokens=run.decoding.max_tokens,
            chunk=run.decoding.chunk,
            baseline=run.decoding.baseline and run.draft is not None and run.engine is None,
            metrics=parts.metrics if run.settings.scored_inline else {},
            memo=memo,
            metric_nodes=run.metrics,
            folder=self.folder,
            turns=self.folder / ".decoding" if run.takes_turns else None,
        )


@dataclass(frozen=True)
class Finished:
    """A batch's record (``pcg.runner.batch``), and when the batch was begun (UTC, ISO 8601)."""

    index: int
    at: str
    record: dict[str, Any]


class Executor(Protocol):
    """Does the batches of one run, in this process or in others."""

    dataset: Dataset
    metrics: Mapping[str, Metric]

    def decode(self, pending: Sequence[int], stopping: Callable[[], bool]) -> Generator[Finished, None, None]:
        """Batches as they are finished. Once ``stopping`` says so no other is begun; those begun are finished."""

    def described(self) -> dict[str, Any]:
        """What the result says of its parts: ``groups`` and ``layouts``."""

    def peak_memory_bytes(self) -> int | None:
        """Most memory that one device held; None where an engine holds it."""

    def score(self, scoring: Scoring) -> Iterator[list[Line]]:
        """Batches as they are scored, on devices that hold no decoding models any more."""


class InProcess:
    """One device: batch after batch, in this process.

    Raises:
        ConfigError: parts that do not fit each other.
    """

    def __init__(self, job: Job, memo: ScoreMemo) -> None:
        runner = job.runner(memo)
        self._runner: BatchRunner | None = runner
        self.dataset: Dataset = runner.parts.dataset
        self.metrics: Mapping[str, Metric] = runner.parts.metrics
        self._device = runner.parts.device
        self._memo = memo
        self._in_an_engine = job.run.engine is not None
        layouts = None if self._in_an_engine else _layouts(runner.parts)
        self._described = {"groups": size_report(runner.parts.rule), "layouts": layouts}
        self._batches = batches(self.dataset, job.run.settings.together)
        self._warm, self._compiled = False, 0
        environment.start_memory(self._device)

    def decode(self, pending: Sequence[int], stopping: Callable[[], bool]) -> Generator[Finished, None, None]:
        for index in pending:
            if stopping():
                return
            yield self.do(index)

    def do(self, index: int) -> Finished:
        assert self._runner is not None
        if not self._warm:
            warm_up(self._runner, self._batches[index])
            self._warm = True
        at = now()
        finished = Finished(index, at, self._runner.run(index, self._batches[index]))
        self._tell_compiled()
        return finished

    def _tell_compiled(self) -> None:
        if compiling.graphs > self._compiled:
            log.info("%d graphs compiled, %.0f s in all, counted with no part", compiling.graphs, compiling.seconds)
            self._compiled = compiling.graphs

    def described(self) -> dict[str, Any]:
        return self._described

    def peak_memory_bytes(self) -> int | None:
        return None if self._in_an_engine else environment.peak_memory_bytes(self._device)

    def score(self, scoring: Scoring) -> Iterator[list[Line]]:
        self._runner = None
        return scoring.alone(self._memo)


def _layouts(parts: Composition[Any]) -> dict[str, str | None]:
    """How the weights of target and draft lie in memory."""
    return {"target": getattr(parts.target, "layout", None), "draft": getattr(parts.draft, "layout", None)}


def batches(dataset: Dataset, size: int) -> list[list[Utterance]]:
    """The dataset in batches that are the same at every start and in every process, whatever is finished."""
    utterances = list(dataset)
    return [utterances[start : start + size] for start in range(0, len(utterances), size)]


def warm_up(runner: BatchRunner, batch: Sequence[Utterance]) -> None:
    try:
        runner.warm_up(batch)
    except Exception:  # the same utterances come again, and are recorded with their reason
        log.debug("warm-up failed", exc_info=True)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
