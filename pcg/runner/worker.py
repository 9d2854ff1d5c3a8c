"""What runs in a worker process of ``pcg.runner.devices``: batches are decoded or scored, records handed back."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import signal
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import connection
from typing import Any

import torch

from pcg.processes import end_after
from pcg.results import environment
from pcg.runner.jobs import Begun, Work
from pcg.runner.scores import ScoreMemo

log = logging.getLogger("pcg")


@dataclass(frozen=True)
class Loaded:
    """The worker has the parts for the work that it was given; what the result says of them."""

    described: dict[str, Any]
    peak_memory: int


@dataclass(frozen=True)
class Answer:
    outcome: Any
    peak_memory: int


@dataclass(frozen=True)
class Raised:
    """An error that is not an utterance's own, such as parts that do not fit each other."""

    error: Exception


def work(pipe: connection.Connection, device: str, index: int, threads: int) -> None:
    """Do what is asked for until the pipe is closed.

    That is ``(work, index)`` to do a batch, ``(work, None)`` to load its parts only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to act on
    parent = multiprocessing.parent_process()
    assert parent is not None
    end_after(parent)  # killed, it leaves nobody behind, in whatever batch they are
    outbox = _Outbox(pipe)
    own, memo = _claim(device, index), ScoreMemo()
    torch.set_num_threads(threads)
    current: Work | None = None
    here: Begun | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            asked, batch = pipe.recv()
            try:
                if here is None or asked != current:
                    current = here = None
                    here = asked.begun(own, memo)
                    current = asked
                # every time: who asks has not noted which workers had their share of other work since
                outbox.tell(Loaded(here.described(), environment.peak_memory_bytes(own)))
                if batch is not None:
                    outbox.tell(Answer(here.do(batch), environment.peak_memory_bytes(own)))
            except Exception as error:
                log.debug("a worker failed", exc_info=True)
                outbox.tell(Raised(_portable(error)))


class _Outbox(QueueHandler):
    """Answers, and whatever is logged, through one pipe; several threads may log."""

    def __init__(self, pipe: connection.Connection) -> None:
        super().__init__(pipe)  # type: ignore[arg-type]  # only ``enqueue`` uses it
        self._pipe = pipe
        logging.getLogger().handlers = [self]
        log.setLevel(logging.DEBUG)

    def enqueue(self, record: logging.LogRecord) -> None:
        self.tell(record)

    def tell(self, message: Any) -> None:
        self.acquire()
        try:
            self._pipe.send(message)
        finally:
            self.release()


def _claim(device: str, index: int) -> torch.device:
    """This process's device, which is the current one from here on."""
    from lightning.fabric import Fabric  # seconds, which the main process need not spend
    from lightning.fabric.plugins.environments import LightningEnvironment

    kind = torch.device(device).type
    # the environment is given so that Fabric does not take a SLURM job's tasks for its own
    fabric = Fabric(
        accelerator=kind, devices=[index] if kind == "cuda" else 1, plugins=[LightningEnvironment()]
    )  # fmt: skip
    fabric.launch()
    return fabric.device


def _portable(error: Exception) -> Exception:
    """The error, or its words where it does not survive the way to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
