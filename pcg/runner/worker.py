"""What runs in a worker process of ``pcg.runner.devices``: batches are decoded, audio written, records handed back."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from logging.handlers import QueueHandler
from multiprocessing import connection
from typing import Any

import torch

from pcg.runner import parts
from pcg.runner.scores import ScoreMemo
from pcg.runner.work import Finished, InProcess, Job

log = logging.getLogger("pcg")


@dataclass(frozen=True)
class Loaded:
    """The worker has the parts of the job that it was given; what the result says of them."""

    groups: dict[str, Any] | None
    peak_memory: int


@dataclass(frozen=True)
class Answer:
    finished: Finished
    peak_memory: int


@dataclass(frozen=True)
class Raised:
    """An error that is not an utterance's own, such as parts that do not fit each other."""

    error: Exception


def work(pipe: connection.Connection, device: str, index: int, threads: int) -> None:
    """Do what is asked for until the pipe is closed.

    That is ``(job, index)`` to decode a batch, ``(job, None)`` to load the parts only, None to let go of the models.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to act on
    threading.Thread(target=_end_with_parent, daemon=True).start()
    outbox = _Outbox(pipe)
    own, memo = str(_claim(device, index)), ScoreMemo()
    torch.set_num_threads(threads)
    job: Job | None = None
    here: InProcess | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            asked = pipe.recv()
            if asked is None:
                job = here = None
                parts.release_models()
                continue
            try:
                if here is None or asked[0] != job:
                    job = here = None
                    here = InProcess(replace(asked[0], run={**asked[0].run, "device": own}), memo)
                    job = asked[0]
                    outbox.tell(Loaded(here.groups(), here.peak_memory_bytes()))
                if asked[1] is None:
                    continue
                [finished] = here.decode([asked[1]], lambda: False)
                outbox.tell(Answer(finished, here.peak_memory_bytes()))
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


def _end_with_parent() -> None:
    """A main process that is killed leaves nobody behind, in whatever batch they are."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error, or its words where it does not survive the way to another process."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
