"""Which worker does which batch: the next one goes to whoever is free, so that a slow one holds nothing back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Reply = TypeVar("Reply", covariant=True)


class WorkerDied(RuntimeError):
    """A worker process ended on its own; the message says how."""


class Worker(Protocol[Reply]):
    """Does one batch at a time, somewhere else."""

    def give(self, index: int) -> None:
        """Begin a batch; what died before is replaced first."""

    def receive(self) -> Reply | None:
        """What came of the batch; None if there was something to read, and the batch is not finished.

        Raises:
            WorkerDied: there will be no answer.
        """

    def stop(self) -> None:
        """Give the batch up at once."""


@dataclass(frozen=True)
class Done(Generic[Reply]):
    """A batch and its reply, or why it was given up."""

    index: int
    reply: Reply | WorkerDied


W = TypeVar("W", bound=Worker)


def dispatch(
    workers: Sequence[W],
    pending: Sequence[int],
    stopping: Callable[[], bool],
    wait: Callable[[Collection[W]], Collection[W]],
) -> Iterator[Done]:
    """Have every batch done, and yield each as it is finished.

    A batch whose worker dies goes to another once; one that ends two workers is given up.

    Args:
        stopping: once true no batch is begun; those begun are finished.
        wait: returns those of the busy workers that have something to be received, when there is one.
    """
    free, waiting, busy, ended = deque(workers), deque(pending), dict[W, int](), set[int]()
    try:
        while True:
            while free and waiting and not stopping():
                worker = free.popleft()
                busy[worker] = waiting.popleft()
                worker.give(busy[worker])
            if not busy:
                return
            for worker in wait(busy):
                try:
                    reply = worker.receive()
                except WorkerDied as death:
                    reply = death
                if reply is None:
                    continue
                index = busy.pop(worker)
                free.append(worker)
                if isinstance(reply, WorkerDied) and index not in ended:
                    ended.add(index)
                    waiting.appendleft(index)
                    continue
                yield Done(index, reply)
    finally:  # an error, or a second Ctrl-C: nobody will receive what these are doing
        for worker in busy:
            worker.stop()
