"""Hands out batches: the next one goes to whichever worker is free, so that a slow worker holds nothing back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol, TypeVar


class WorkerDied(RuntimeError):
    """A worker process ended by itself; the message says how."""


class Worker(Protocol):
    """Does one batch at a time, in another process."""

    def give(self, index: int) -> None:
        """Begin a batch. A worker that has died is replaced first."""

    def receive(self) -> Any:
        """Return the outcome of the batch; None where the message that was read is not the outcome.

        Raises:
            WorkerDied: the worker ended before it had finished.
        """

    def stop(self) -> None:
        """End the worker at once."""


W = TypeVar("W", bound=Worker)


def dispatch(
    workers: Sequence[W],
    pending: Sequence[int],
    stopping: Callable[[], bool],
    wait: Callable[[Collection[W]], Collection[W]],
) -> Iterator[tuple[int, Any]]:
    """Do every pending batch; yields the index and the outcome of each when it is finished.

    A batch whose worker dies is given to another worker once. Where that one dies too, the outcome is its WorkerDied.

    Args:
        stopping: once it returns true no batch is begun any more; those that were begun are finished.
        wait: blocks until one of the busy workers has a message, and returns those that have.
    """
    free, waiting, busy, tried_again = deque(workers), deque(pending), dict[W, int](), set[int]()
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
                    outcome = worker.receive()
                except WorkerDied as death:
                    outcome = death
                if outcome is None:
                    continue
                index = busy.pop(worker)
                free.append(worker)
                if isinstance(outcome, WorkerDied) and index not in tried_again:
                    tried_again.add(index)
                    waiting.appendleft(index)
                    continue
                yield index, outcome
    finally:  # after an error or a second Ctrl-C nobody receives what these workers are doing
        for worker in busy:
            worker.stop()
