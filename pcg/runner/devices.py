"""One run over several devices: a worker process a device, which keeps its models from run to run of a sweep.

Workers decode, write audio and score it. The main process alone writes the run's records. Lightning Fabric gives each
process its device; on a CPU the devices are processes.
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

from pcg.runner import worker
from pcg.runner.jobs import Job
from pcg.runner.schedule import WorkerDied, dispatch

# Worker processes are forked from a server that has no threads and no GPU, and has imported torch and Lightning once.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["lightning.fabric", "pcg.runner.worker"])
log = logging.getLogger("pcg")


class _Live(NamedTuple):
    process: BaseProcess
    pipe: connection.Connection


class DeviceWorker:
    """A worker process as the main process sees it. It is started when it is first needed and replaced when it dies.

    Attributes:
        described: of the loaded job (``pcg.runner.jobs.LoadedJob``); None until the process has loaded it.
        peak_memory: bytes, during the job.
    """

    def __init__(self, device: str, index: int, threads: int, relay: Callable[[logging.LogRecord], None]) -> None:
        self._arguments, self._relay = (device, index, threads), relay
        self._live: _Live | None = None
        self._job: Job | None = None
        self.described: Mapping[str, Any] | None = None
        self.peak_memory = 0

    @property
    def channels(self) -> tuple[Any, ...]:
        """What to wait for: a message, or the end of the process, whose own children may hold its pipe open."""
        assert self._live is not None
        return self._live.pipe, self._live.process.sentinel

    def begin(self, job: Job) -> None:
        """The next batches are of this job."""
        if job != self._job:
            self.described = None
        self._job, self.peak_memory = job, 0

    def give(self, index: int | None) -> None:
        """Begin a batch of the job; None only loads the job."""
        if self._live is None or self._live.process.exitcode is not None:
            self.stop()
            self._live = self._started()
            self.described = None
        with suppress(OSError):  # the process has just died; ``receive`` finds out
            self._live.pipe.send((self._job, index))

    def receive(self) -> Any:
        """Read a message: returns the batch's outcome, or None where the message is another.

        Raises:
            WorkerDied: the process ended while it did the batch.
            RuntimeError: the process ended while it loaded the job, which another try would not mend.
            Exception: what loading the job or doing the batch raised.
        """
        assert self._live is not None
        try:
            if not self._live.pipe.poll():
                raise EOFError
            message = self._live.pipe.recv()
        except (EOFError, OSError):
            raise self._death(self._live.process) from None
        if isinstance(message, logging.LogRecord):
            self._relay(message)
            return None
        if message.error is not None:
            raise message.error
        self.described, self.peak_memory = message.described, message.peak_memory
        return message.outcome

    def stop(self) -> None:
        """End the process at once, whatever it is doing."""
        if self._live is not None:
            self._live.process.kill()
            self._live.process.join()
            self._live.pipe.close()
        self._live = None

    def _started(self) -> _Live:
        ours, theirs = _context.Pipe()
        process = _context.Process(target=worker.work, args=(theirs, *self._arguments))
        if multiprocessing.get_start_method() not in multiprocessing.get_all_start_methods():
            multiprocessing.set_start_method("forkserver", force=True)  # joblib's own method is unknown to children
        with _sigint_blocked():
            process.start()
        theirs.close()
        return _Live(process, ours)

    def _death(self, process: BaseProcess) -> RuntimeError:
        process.join()
        code = process.exitcode or 0
        how = f"ended with status {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        how += " (out of memory?)" if code == -signal.SIGKILL else ""
        if self.described is None:
            return RuntimeError(f"a worker process {how} while it loaded the run's models or metrics")
        log.warning("a worker process %s", how)
        return WorkerDied(f"it ended two worker processes; the last {how}")


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Processes that are started here never see Ctrl-C, which a terminal sends to all of them: they finish their batch.
    This process sees it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Pool:
    """The workers of this process, one a device, for all runs of a sweep. An ``pcg.runner.jobs.Executor``."""

    def __init__(self, device: str, devices: int, threads: int) -> None:
        self._workers = [DeviceWorker(device, index, threads, self._relay) for index in range(devices)]
        self._job: Job | None = None
        self._relayed: set[tuple[str, str]] = set()

    def begin(self, job: Job) -> None:
        self._job = job
        self._relayed.clear()
        for device_worker in self._workers:
            device_worker.begin(job)

    def do(self, pending: Sequence[int], stopping: Callable[[], bool]) -> Generator[Any, None, None]:
        assert self._job is not None
        for index, outcome in dispatch(self._workers, pending, stopping, _wait):
            yield self._job.given_up(index, outcome) if isinstance(outcome, WorkerDied) else outcome

    def described(self) -> Mapping[str, Any]:
        described = next((loaded.described for loaded in self._workers if loaded.described is not None), None)
        if described is None:  # no batch was left to do
            first = self._workers[0]
            first.give(None)
            while first.described is None:
                _wait([first])
                first.receive()
            described = first.described
        return described

    def peak_memory_bytes(self) -> int:
        return max(device_worker.peak_memory for device_worker in self._workers)

    def close(self) -> None:
        for device_worker in self._workers:
            device_worker.stop()

    def _relay(self, record: logging.LogRecord) -> None:
        """Log what a worker logged; once where all workers log the same."""
        message = (record.name, record.getMessage())
        if message not in self._relayed:
            self._relayed.add(message)
            logging.getLogger(record.name).handle(record)


def _wait(busy: Collection[DeviceWorker]) -> list[DeviceWorker]:
    worker_of = {channel: device_worker for device_worker in busy for channel in device_worker.channels}
    return list(dict.fromkeys(worker_of[channel] for channel in connection.wait(list(worker_of))))


_pools: dict[tuple[str, int, int], Pool] = {}


def pool(device: str, devices: int, threads: int) -> Pool:
    """The pool of this process, kept for the next run that asks for the same; another pool is shut down first."""
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
