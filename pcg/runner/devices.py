"""One run over several devices: a process for each, which keeps its models from run to run of a sweep.

Workers decode, write audio and score it; what comes of a batch goes back to the main process, which alone writes the
run's records. Lightning Fabric gives each process its device. On a CPU the devices are processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

from pcg.interfaces import Dataset, Metric
from pcg.runner import worker
from pcg.runner.batch import failed_batch
from pcg.runner.jobs import Finished, Job, Work, batches, now
from pcg.runner.loading import load_dataset, metrics_of
from pcg.runner.rescore import Line, Scoring
from pcg.runner.schedule import WorkerDied, dispatch
from pcg.runner.worker import Answer, Loaded, Raised

# Processes that have none of this one's threads and no GPU yet; torch and Lightning are imported for all of them once.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lightning.fabric", "pcg.runner.worker"])
log = logging.getLogger("pcg")


class _Live(NamedTuple):
    process: BaseProcess
    pipe: connection.Connection


class DeviceWorker:
    """A worker process as the main process sees it, started when it is first needed and replaced when it dies."""

    def __init__(self, device: str, index: int, threads: int, relay: Callable[[logging.LogRecord], None]) -> None:
        self._arguments, self._relay = (device, index, threads), relay
        self._live: _Live | None = None
        self._work: Work | None = None
        self.loaded: Loaded | None = None
        self.peak_memory = 0

    @property
    def channels(self) -> tuple[Any, ...]:
        """To be waited for: a message, or the end of the process (whose own children may hold its pipe open)."""
        assert self._live is not None
        return self._live.pipe, self._live.process.sentinel

    def take(self, work: Work) -> None:
        """What the next batches are of."""
        self.loaded = self.loaded if work == self._work else None
        self._work, self.peak_memory = work, 0

    def give(self, index: int | None) -> None:
        """Begin a batch of the work, or only load its parts."""
        if self._live is None or self._live.process.exitcode is not None:
            self.stop()
            self._live = self._started()
            self.loaded = None
        with suppress(OSError):  # it has just died, as ``receive`` will find
            self._live.pipe.send((self._work, index))

    def receive(self) -> Any:
        """What came of the batch, if this is it, else None; log records are passed on.

        Raises:
            WorkerDied: while it decoded or scored.
            RuntimeError: it died while it loaded the run's parts, which another try would not mend.
            Exception: what the worker could not load, or do, as it raised it.
        """
        assert self._live is not None
        try:
            if not self._live.pipe.poll():
                raise EOFError
            message = self._live.pipe.recv()
        except (EOFError, OSError):
            raise self._death(self._live.process) from None
        match message:
            case Answer():
                self.peak_memory = message.peak_memory
                return message.outcome
            case Raised():
                raise message.error
            case Loaded():
                self.loaded, self.peak_memory = message, message.peak_memory
            case logging.LogRecord():
                self._relay(message)
        return None

    def stop(self) -> None:
        """End the process at once, whatever it is at."""
        if self._live is not None:
            self._live.process.kill()
            self._live.process.join()
            self._live.pipe.close()
        self._live = None

    def _started(self) -> _Live:
        ours, theirs = _context.Pipe()
        process = _context.Process(target=worker.work, args=(theirs, *self._arguments))
        if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
            multiprocessing.set_start_method("forkserver", force=True)  # joblib's own, which children do not know
        with _deaf_to_ctrl_c():
            process.start()
        theirs.close()
        return _Live(process, ours)

    def _death(self, process: BaseProcess) -> RuntimeError:
        process.join()
        code = process.exitcode or 0
        how = f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        how += " (out of memory?)" if code == -signal.SIGKILL else ""
        if self.loaded is None:
            return RuntimeError(f"a worker process {how} while it loaded the run's parts")
        log.warning("a worker process %s", how)
        return WorkerDied(f"it ended two worker processes; the last {how}")


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes begun here never hear Ctrl-C, which reaches all of a terminal: they finish their batch. This one hears
    it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pool:
    """The workers of this process: one a device, for all runs of a sweep."""

    def __init__(self, device: str, devices: int, threads: int) -> None:
        self.workers = [DeviceWorker(device, index, threads, self._relay) for index in range(devices)]
        self._told: set[tuple[str, str]] = set()

    def begin(self, work: Work) -> None:
        self._told.clear()
        for each in self.workers:
            each.take(work)

    def close(self) -> None:
        for each in self.workers:
            each.stop()

    def _relay(self, record: logging.LogRecord) -> None:
        """Say what a worker says, once where all of them say it."""
        said = (record.name, record.getMessage())
        if said not in self._told:
            self._told.add(said)
            logging.getLogger(record.name).handle(record)


class OverDevices:
    """One run on a pool's workers. This process holds the dataset, and of models and metrics no weights."""

    def __init__(self, job: Job, pool: Pool) -> None:
        self.dataset: Dataset = load_dataset(job.run.dataset)
        self.metrics: Mapping[str, Metric] = metrics_of(job.run)
        self._pool, self._size = pool, job.run.settings.together
        pool.begin(job)

    def decode(self, pending: Sequence[int], stopping: Callable[[], bool]) -> Generator[Finished, None, None]:
        cut = batches(self.dataset, self._size)
        for done in dispatch(self._pool.workers, pending, stopping, _wait):
            if isinstance(done.reply, WorkerDied):
                log.warning("batch %d failed: %s", done.index, done.reply)
                yield Finished(done.index, now(), failed_batch(cut[done.index], done.reply))
            else:
                yield done.reply

    def described(self) -> dict[str, Any]:
        loaded = next((each.loaded for each in self._pool.workers if each.loaded), None)
        if loaded is None:  # a start that had nothing left to decode
            first = self._pool.workers[0]
            first.give(None)
            while first.loaded is None:
                _wait([first])
                first.receive()
            loaded = first.loaded
        return loaded.described

    def peak_memory_bytes(self) -> int:
        return max(each.peak_memory for each in self._pool.workers)

    def score(self, scoring: Scoring) -> Iterator[list[Line]]:
        self._pool.begin(scoring)
        for done in dispatch(self._pool.workers, range(len(scoring.batches)), lambda: False, _wait):
            if isinstance(done.reply, WorkerDied):  # without its scores the run would have wrong figures
                said = scoring.batches[done.index]
                raise RuntimeError(f"utterances {said[0]} to {said[-1]} cannot be scored: {done.reply}")
            yield done.reply


def _wait(busy: Collection[DeviceWorker]) -> list[DeviceWorker]:
    of = {channel: each for each in busy for channel in each.channels}
    return list(dict.fromkeys(of[channel] for channel in connection.wait(list(of))))


_pools: dict[tuple[str, int, int], Pool] = {}


def pool(device: str, devices: int, threads: int) -> Pool:
    """The pool of this process, kept for the next run that asks for the same; another one is shut down first."""
    key = (device, devices, threads)
    if key not in _pools:
        shut_down()
        _pools[key] = Pool(device, devices, threads)
        # not atexit, which the processes of parallel launchers do not run: they would wait for their workers
        Finalize(None, shut_down, exitpriority=100)
    return _pools[key]


def shut_down() -> None:
    """End every worker of this process."""
    while _pools:
        _pools.popitem()[1].close()
