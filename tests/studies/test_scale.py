"""The real scheduling on made-up workers: nothing is lost or done twice, and 8 devices are busy (docs/scale.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcg.runner.schedule import WorkerDied, dispatch
from pcg.studies import simulate
from pcg.studies.simulate import Assumed, Clock, MadeUpWorker, durations, lengths, run, run_then_score

DOCS = Path(__file__).parents[2] / "docs" / "scale.md"


@pytest.mark.parametrize("batch_size", [1, 8])
def test_8_devices_are_busy_for_95_per_cent_of_a_run_over_test_clean(batch_size: int) -> None:
    assumed = Assumed(batch_size=batch_size)
    batches = durations(assumed, lengths(assumed))
    done = run(batches, devices=8, record=assumed.record)
    assert sorted(index for did in done.did for index in did) == list(range(len(batches)))
    assert sum(done.worked) == pytest.approx(sum(batches))
    assert done.use > 0.95


@pytest.mark.parametrize("batch_size", [1, 8])
def test_they_are_when_they_score_after_decoding(batch_size: int) -> None:
    assumed = Assumed(batch_size=batch_size)
    speech = lengths(assumed)
    done = run_then_score(assumed, speech)
    assert sum(done.worked) == pytest.approx(sum(durations(assumed, speech)))
    assert done.use > 0.95


def test_a_slow_device_holds_nothing_back() -> None:
    """Cut into equal shares the run would take as long as the slow device needs for its own."""
    done = run([1.0] * 800, slowness=[10.0] + [1.0] * 7)
    assert done.seconds == pytest.approx(800 / 7.1, abs=10)  # one batch of the slow one at most
    assert len(done.did[0]) == pytest.approx(11, abs=1)
    assert max(map(len, done.did[1:])) - min(map(len, done.did[1:])) <= 1


def test_the_page_holds_the_figures_of_the_simulation() -> None:
    assert simulate.report() in DOCS.read_text(encoding="utf-8"), "run `python -m pcg.studies.simulate`"


class Mortal(MadeUpWorker):
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
    workers = [Mortal(Clock(), [1.0] * 6, 0.0) for _ in range(2)]
    found = {done.index: done.reply for done in dispatch(workers, range(6), lambda: False, list)}
    assert sorted(found) == list(range(6))
    assert isinstance(found[3], WorkerDied) == (deaths == 2)
    did = [index for worker in workers for index in worker.did]
    assert [did.count(index) for index in range(6)] == [1, 1, 1, tries, 1, 1]


def test_once_it_is_stopping_what_was_begun_is_finished_and_nothing_else() -> None:
    workers = [MadeUpWorker(Clock(), [1.0] * 9, 0.0) for _ in range(3)]
    came = dispatch(workers, range(9), lambda: stopping, list)
    stopping = False
    first = next(came).index
    stopping = True
    assert [first, *(done.index for done in came)] == [0, 1, 2]
    assert [worker.did for worker in workers] == [[0], [1], [2]]


def test_an_error_stops_the_workers_that_are_at_something() -> None:
    class Failing(MadeUpWorker):
        def receive(self) -> int:
            if self.did[-1] == 0:
                raise FileNotFoundError("no weights")
            return self.did[-1]

        def stop(self) -> None:
            stopped.append(self.did[-1])

    stopped: list[int] = []
    with pytest.raises(FileNotFoundError):
        list(dispatch([Failing(Clock(), [1.0] * 4, 0.0) for _ in range(2)], range(4), lambda: False, list))
    assert stopped == [0, 1]
