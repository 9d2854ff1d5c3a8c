"""Jobs, which are batches to do, and what does them in this process. ``pcg.runner.devices`` does them in several."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from pcg.config.run import Run
from pcg.decoding.clock import compiling
from pcg.interfaces import Dataset
from pcg.results import environment
from pcg.runner.batch import BatchRunner, failed_batch
from pcg.runner.composition import with_decoder
from pcg.runner.groups import size_report
from pcg.runner.loading import load_dataset
from pcg.runner.schedule import WorkerDied
from pcg.runner.scores import ScoreMemo
from pcg.types import Utterance

log = logging.getLogger("pcg")


class LoadedJob(Protocol):
    """A job in a process that has loaded what it needs.

    Attributes:
        described: what result.json says of the loaded models: ``groups`` and ``layouts``.
    """

    described: Mapping[str, Any]

    def do(self, index: int) -> Any:
        """Do a batch and return its outcome, which can be sent to another process."""


class Job(Protocol):
    """Batches to do. It holds plain values only, so that it can be sent to another process."""

    def load(self, device: torch.device, memo: ScoreMemo) -> LoadedJob:
        """Load the models or metrics onto the device of this process."""

    def given_up(self, index: int, death: WorkerDied) -> Any:
        """Return the outcome of a batch that ended two worker processes, or raise."""


class Executor(Protocol):
    """Does jobs, in this process or in others."""

    def begin(self, job: Job) -> None:
        """Do this job from now on; models that it does not need are let go."""

    def do(self, pending: Sequence[int], stopping: Callable[[], bool]) -> Generator[Any, None, None]:
        """Yield the outcome of each batch when it is finished.

        Once ``stopping`` returns true no batch is begun any more; those that were begun are finished.
        """

    def described(self) -> Mapping[str, Any]:
        """Return the ``described`` of the job, which is loaded for it if it was not yet."""

    def peak_memory_bytes(self) -> int:
        """Return the largest memory in use on one device during the job."""


class InProcess:
    """Does jobs batch after batch in this process."""

    def __init__(self, device: torch.device, memo: ScoreMemo) -> None:
        self._device, self._memo = device, memo
        self._loaded: LoadedJob | None = None

    def begin(self, job: Job) -> None:
        self._loaded = None  # before the next models are loaded
        self._loaded = job.load(self._device, self._memo)

    def do(self, pending: Sequence[int], stopping: Callable[[], bool]) -> Generator[Any, None, None]:
        assert self._loaded is not None
        for index in pending:
            if stopping():
                return
            yield self._loaded.do(index)

    def described(self) -> Mapping[str, Any]:
        assert self._loaded is not None
        return self._loaded.described

    def peak_memory_bytes(self) -> int:
        return environment.peak_memory_bytes(self._device)


@dataclass(frozen=True)
class Finished:
    """A batch's record (``pcg.runner.batch``), and when the batch was begun (UTC, ISO 8601)."""

    index: int
    at: str
    record: dict[str, Any]


@dataclass(frozen=True)
class DecodeJob:
    """Decodes the utterances of a run, and scores them too unless ``metrics.when=after``.

    Attributes:
        folder: of the run; audio is written into it.
    """

    run: Run
    folder: Path

    def load(self, device: torch.device, memo: ScoreMemo) -> Decoding:
        return Decoding(self.run.on(device), self.folder, memo)

    def given_up(self, index: int, death: WorkerDied) -> Finished:
        log.warning("batch %d failed: %s", index, death)
        batch = batches(load_dataset(self.run.dataset), self.run.settings.together)[index]
        return Finished(index, _now(), failed_batch(batch, death))


class Decoding:
    """A decode job with its models loaded.

    Raises:
        ConfigError: models, rule and codec that do not fit each other.
    """

    def __init__(self, run: Run, folder: Path, memo: ScoreMemo) -> None:
        composition, decoder = with_decoder(run)
        self._runner = BatchRunner(run, composition, decoder, folder, memo)
        layouts = {role: getattr(getattr(composition, role), "layout", None) for role in ("target", "draft")}
        self.described: Mapping[str, Any] = {
            "groups": size_report(composition.rule),
            "layouts": None if run.engine else layouts,
        }
        self._batches = batches(composition.dataset, run.settings.together)
        self._is_warm, self._graphs = False, 0
        environment.start_memory(composition.device)

    def do(self, index: int) -> Finished:
        batch = self._batches[index]
        if not self._is_warm:
            self._warm_up(batch)
        at = _now()
        record = self._runner.record(index, batch)
        if compiling.graphs > self._graphs:
            self._graphs = compiling.graphs
            log.info("%d graphs compiled in %.0f s, which no figure counts", compiling.graphs, compiling.seconds)
        return Finished(index, at, record)

    def _warm_up(self, batch: Sequence[Utterance]) -> None:
        self._is_warm = True
        try:
            self._runner.warm_up(batch)
        except Exception:  # the same utterances are decoded next, and recorded with the reason
            log.debug("warm-up failed", exc_info=True)


def batches(dataset: Dataset, size: int) -> list[list[Utterance]]:
    """The dataset in batches, the same in every process and at every start of a run."""
    utterances = list(dataset)
    return [utterances[start : start + size] for start in range(0, len(utterances), size)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
