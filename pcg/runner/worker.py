"""What runs in a worker process of ``pcg.runner.devices``: it does batches of a job and sends the outcomes back."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import connection
from typing import Any

import torch

from pcg.processes import end_after
from pcg.results import environment
from pcg.runner.jobs import Job, LoadedJob
from pcg.runner.scores import ScoreMemo

log = logging.getLogger("pcg")


@dataclass(frozen=True)
class Reply:
    """What a worker sends twice for each batch: when the job is loaded, without an outcome, and when the batch is done.

    Attributes:
        described: of the loaded job (``pcg.runner.jobs.LoadedJob``).
        error: what loading or doing raised; it is not an utterance's own, which the outcome records.
    """

    described: Mapping[str, Any] | None = None
    peak_memory: int = 0
    outcome: Any = None
    error: Exception | None = None


def work(pipe: connection.Connection, device: str, index: int, threads: int) -> None:
    """Do the batches ``(job, index)`` that come through the pipe until it is closed; ``(job, None)`` only loads."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process acts on Ctrl-C
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_after(parent)  # else a main process that is killed would leave this one running
    outbox = _Outbox(pipe)
    own_device, memo = _claim(device, index), ScoreMemo()
    torch.set_num_threads(threads)
    job: Job | None = None
    loaded: LoadedJob | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            asked, batch = pipe.recv()
            try:
                if loaded is None or asked != job:
                    job = loaded = None  # what the last job holds goes before the next is loaded
                    loaded = asked.load(own_device, memo)
                    job = asked
                outbox.send(Reply(loaded.described, environment.peak_memory_bytes(own_device)))
                if batch is not None:
                    outcome = loaded.do(batch)
                    outbox.send(Reply(loaded.described, environment.peak_memory_bytes(own_device), outcome))
            except Exception as error:
                log.debug("a worker failed", exc_info=True)
                outbox.send(Reply(error=_portable(error)))


class _Outbox(QueueHandler):
    """Sends replies and log records through one pipe; several threads may log."""

    def __init__(self, pipe: connection.Connection) -> None:
        super().__init__(pipe)  # type: ignore[arg-type]  # only ``enqueue`` uses it
        self._pipe = pipe
        logging.getLogger().handlers = [self]
        log.setLevel(logging.DEBUG)

    def enqueue(self, record: logging.LogRecord) -> None:
        self.send(record)

    def send(self, message: Any) -> None:
        self.acquire()
        try:
            self._pipe.send(message)
        finally:
            self.release()


def _claim(device: str, index: int) -> torch.device:
    """This process's device, which is torch's current device from here on."""
    from lightning.fabric import Fabric  # takes seconds to import, and the main process does not need it
    from lightning.fabric.plugins.environments import LightningEnvironment

    kind = torch.device(device).type
    # without the plugin Fabric would take the tasks of a SLURM job for its own processes
    fabric = Fabric(
        accelerator=kind, devices=[index] if kind == "cuda" else 1, plugins=[LightningEnvironment()]
    )  # fmt: skip
    fabric.launch()
    return fabric.device


def _portable(error: Exception) -> Exception:
    """The error, or its words where it cannot be sent to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
