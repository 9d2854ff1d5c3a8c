"""``dispatch``: each batch is done once, no worker idles while one is left, a dead worker's batch is tried again."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest

from pcg.runner.schedule import WorkerDied, dispatch


@dataclass(eq=False)
class FakeWorker:
    """Finishes batch i after ``seconds[i]`` times its slowness, on the clock of ``run``."""

    seconds: Sequence[float]
    slowness: float = 1.0
    ends: float = 0.0
    did: list[int] = field(default_factory=list)
    stopped: bool = False

    def give(self, index: int) -> None:
        self.ends += self.slowness * self.seconds[index]
        self.did.append(index)

    def receive(self) -> int:
        return self.did[-1]

    def stop(self) -> None:
        self.stopped = True


def run(workers: Sequence[FakeWorker], batches: int) -> float:
    """Seconds until all batches are done."""
    now = 0.0

    def wait(busy: Collection[FakeWorker]) -> list[FakeWorker]:
        nonlocal now
        now = max(now, min(worker.ends for worker in busy))
        return [worker for worker in busy if worker.ends <= now]

    for _ in dispatch(workers, range(batches), lambda: False, wait):
        pass
    return now


def test_a_run_takes_its_share_of_the_work_and_at_most_one_batch_more() -> None:
    """The bound of docs/scale.md, at its sizes: 4,837 utterances on 8 devices."""
    draws = random.Random(0)
    seconds = [0.3 + 0.6 * min(draws.lognormvariate(1.57, 0.75), 20.0) for _ in range(4837)]
    workers = [FakeWorker(seconds) for _ in range(8)]
    took = run(workers, len(seconds))
    assert sorted(index for worker in workers for index in worker.did) == list(range(len(seconds)))
    assert sum(seconds) / 8 <= took <= sum(seconds) / 8 + max(seconds)


def test_a_slow_device_holds_nothing_back() -> None:
    """Cut into equal shares the run would take as long as the slow device needs for its own."""
    workers = [FakeWorker([1.0] * 800, slowness) for slowness in [10.0] + [1.0] * 7]
    assert run(workers, 800) == pytest.approx(800 / 7.1, abs=10)  # one batch of the slow one at most
    assert len(workers[0].did) == pytest.approx(11, abs=1)


class Mortal(FakeWorker):
    """Dies of batch 3, as often as ``deaths`` says."""

    deaths = 0

    def receive(self) -> int:
        if self.did[-1] == 3 and Mortal.deaths:
            Mortal.deaths -= 1
            raise WorkerDied("killed")
        return self.did[-1]


@pytest.mark.parametrize(("deaths", "tries"), [(0, 1), (1, 2), (2, 2)])
def test_a_batch_is_tried_twice_and_the_others_once(deaths: int, tries: int) -> None:
    Mortal.deaths = deaths
    workers = [Mortal([1.0] * 6) for _ in range(2)]
    outcomes = dict(dispatch(workers, range(6), lambda: False, list))
    assert sorted(outcomes) == list(range(6))
    assert isinstance(outcomes[3], WorkerDied) == (deaths == 2)
    did = [index for worker in workers for index in worker.did]
    assert [did.count(index) for index in range(6)] == [1, 1, 1, tries, 1, 1]


def test_once_it_is_stopping_the_begun_batches_are_finished_and_none_is_begun() -> None:
    workers = [FakeWorker([1.0] * 9) for _ in range(3)]
    came = dispatch(workers, range(9), lambda: stopping, list)
    stopping = False
    first, _ = next(came)
    stopping = True
    assert [first, *(index for index, _ in came)] == [0, 1, 2]
    assert [worker.did for worker in workers] == [[0], [1], [2]]


def test_an_error_stops_the_workers_that_are_busy() -> None:
    class Failing(FakeWorker):
        def receive(self) -> int:
            raise FileNotFoundError("no weights")

    workers = [Failing([1.0] * 4) for _ in range(2)]
    with pytest.raises(FileNotFoundError):
        list(dispatch(workers, range(4), lambda: False, list))
    assert workers[1].stopped
