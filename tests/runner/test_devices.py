"""One run over several processes gives what it gives in one, whatever happens to a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from pcg.config import validate
from pcg.config.validate import ConfigError, check
from pcg.results import store
from pcg.results.records import Records
from pcg.runner import devices, loading, rescore, run, worker
from pcg.runner.run import run_once
from pcg.types import Result
from tests.runner.test_run import figures
from tests.tiny import parts as parts_for_tests
from tests.tiny import worker as tiny_worker
from tests.tiny.worker import Ears, Watched, notes
from tests.tracking.offline import history

Config = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def _workers() -> Iterator[None]:
    """One pool for most of these tests: a process costs seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "work", tiny_worker.work)
        yield
    devices.shut_down()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """The node of a model that is watched through ``tmp_path / journal``."""
    monkeypatch.setattr(Watched, "__module__", "pcg.tiny")
    monkeypatch.setattr(parts_for_tests, "Watched", Watched, raising=False)

    def node(**settings: Any) -> dict[str, Any]:
        return {"_target_": "pcg.tiny.Watched", "journal": f"journal:{tmp_path / 'journal'}", **settings}

    return node


@pytest.fixture
def after(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A config whose metric scores when all is decoded, two utterances at a time, and is watched like the model."""
    monkeypatch.setattr(Ears, "__module__", "pcg.tiny")
    monkeypatch.setattr(parts_for_tests, "Ears", Ears, raising=False)
    monkeypatch.setattr(rescore, "TOGETHER", 2)

    def make(**changes: Any) -> dict[str, Any]:
        settings = {key: changes.pop(key) for key in ("deadly", "kills") if key in changes}
        ears = {"_target_": "pcg.tiny.Ears", "journal": f"journal:{tmp_path / 'journal'}", **settings}
        return config(**{"metrics": {"ears": ears, "when": "after"}, **changes})

    return make


def scorers(folder: Path) -> list[list[int]]:
    """Of each time that the watched metric scored: the process, and how many parts for decoding it held."""
    return [[int(word) for word in line.split()[1:]] for line in notes(folder / "journal") if line.startswith("scored")]


def loads(folder: Path) -> list[int]:
    """The processes that loaded the watched model, as often as they did."""
    return [int(line.split()[1]) for line in notes(folder / "journal") if line.startswith("load")]


def tokens(result: Result) -> list[list[int]]:
    return pyarrow.parquet.read_table(Path(result.folder) / "utterances.parquet")["tokens"].to_pylist()


def scores(result: Result) -> list[dict[str, Any]]:
    columns = [f"{which}{name}" for which in ("", "baseline_") for name in ("errors", "words", "mos")]
    return [{name: row[name] for name in columns} for row in store.read_utterances(Path(result.folder))]


def untimed(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in figures(values).items() if key not in ("study", "devices")}


def indices(folder: Path) -> list[int]:
    return [json.loads(line)["batch"] for line in (folder / "batches.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_figures_and_tokens_do_not_depend_on_the_number_of_devices(config: Config) -> None:
    groups = {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.4}
    grouping = {"_target_": "pcg.acceptance.pcg.PCG", "theta": 0.4, "groups": groups}
    changes = {"dataset.limit": 17, "grouping": grouping}
    sizes = (1, 2)
    alone = {size: run_once(config(**changes, **{"decoding.batch_size": size})) for size in sizes}
    for count in (8, 2):
        for size in sizes:
            shared = run_once(config(**changes, **{"decoding.batch_size": size}, devices=count, study=f"on{count}"))
            assert untimed(shared.values) == untimed(alone[size].values)
            assert tokens(shared) == tokens(alone[size])
            assert shared.values["run_id"] == alone[size].values["run_id"]
            assert (alone[size].values["devices"], shared.values["devices"]) == (1, count)
            assert shared.values["speed"]["speedup"] > 0
            assert (Path(shared.folder) / ".decoding").exists()  # one of them decodes at a time
            assert not (Path(alone[size].folder) / ".decoding").exists()
            assert shared.values["speed"]["peak_memory_bytes"] > 0


def test_models_are_loaded_once_a_worker_for_all_runs_of_a_sweep(config: Config, watched: Any, tmp_path: Path) -> None:
    target = watched(delay=0.02)
    for seed in (0, 1, 2):
        run_once(config(target=target, devices=2, seed=seed))
    assert len(loads(tmp_path)) == len(set(loads(tmp_path))) == 2
    assert os.getpid() not in loads(tmp_path)
    assert not {"Bigram", "Watched", "Tones"} & {type(each).__name__ for each in loading.kept._objects.values()}


def test_a_failing_utterance_is_recorded_and_the_others_go_on(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    result = run_once(config(**{"dataset.poison": [1], "devices": 2}))
    assert result.values["failures"] == [{"utterance": "u/1", "reason": "RuntimeError: cannot say poison"}]
    assert result.values["counts"]["utterances"] == 5
    assert "utterance u/1 failed" in caplog.text  # what a worker says is heard
    assert "utterance u/1 failed" in (Path(result.folder) / "run.log").read_text()


def test_a_batch_whose_worker_is_killed_is_given_to_another(config: Config, watched: Any, tmp_path: Path) -> None:
    target = watched(deadly=["u/2"], kills=1)
    killed = run_once(config(target=target, devices=2))
    unbroken = run_once(config(devices=2, study="unbroken"))
    assert tokens(killed) == tokens(unbroken)
    assert killed.values["failures"] == []
    assert "kill u/2" in notes(tmp_path / "journal")
    assert len(set(loads(tmp_path))) == 3  # the dead worker was replaced


def test_a_batch_that_kills_two_workers_is_given_up(config: Config, watched: Any) -> None:
    values = run_once(config(target=watched(deadly=["u/2"], kills=9), devices=2)).values
    reason = "WorkerDied: it ended two worker processes; the last was killed by SIGKILL (out of memory?)"
    assert values["failures"] == [{"utterance": f"u/{index}", "reason": reason} for index in (2, 3)]
    assert values["counts"]["utterances"] == 4


def test_what_cannot_be_loaded_is_said_as_in_one_process(config: Config, watched: Any) -> None:
    with pytest.raises(FileNotFoundError, match="no weights there"):
        run_once(config(target=watched(fails=True), devices=2))
    with pytest.raises(ConfigError, match="codec: has 12 tokens, the target speaks 10") as caught:
        run_once(config(target=watched(vocab_size=11), devices=2))
    assert len(caught.value.problems) == 2
    with pytest.raises(RuntimeError, match=r"was killed by SIGKILL \(out of memory\?\) while it loaded"):
        run_once(config(target=watched(dies=True), devices=2))


def test_scores_taken_after_decoding_do_not_depend_on_the_number_of_devices(after: Config, tmp_path: Path) -> None:
    alone = run_once(after(study="alone"))
    assert {process for process, _ in scorers(tmp_path)} == {os.getpid()}
    (tmp_path / "journal").unlink()
    shared = run_once(after(devices=2))
    assert untimed(shared.values) == untimed(alone.values)
    assert scores(shared) == scores(alone)
    assert len({process for process, _ in scorers(tmp_path)} - {os.getpid()}) == 2
    assert {held for _, held in scorers(tmp_path)} == {0}  # decoding models made room


def test_models_that_made_room_for_metrics_are_loaded_for_the_next_run(
    after: Config, watched: Any, tmp_path: Path
) -> None:
    target = watched()
    for seed in (0, 1):
        run_once(after(target=target, devices=2, seed=seed))
    assert sorted(loads(tmp_path)) == sorted(2 * list(set(loads(tmp_path))))
    assert len(loads(tmp_path)) == 4


def test_scores_whose_worker_is_killed_are_taken_by_another(after: Config, tmp_path: Path) -> None:
    killed = run_once(after(deadly=["u/2"], kills=1, devices=2))
    unbroken = run_once(after(study="unbroken"))
    assert killed.values["quality"] == unbroken.values["quality"]
    assert notes(tmp_path / "journal").count("kill u/2") == 1


def test_scores_that_kill_two_workers_end_the_run_which_goes_on(after: Config, tmp_path: Path) -> None:
    changes = {"deadly": ["u/2"], "kills": 2, "devices": 2}
    with pytest.raises(RuntimeError, match=r"u/2 to u/3 cannot be scored: it ended two worker processes; .* SIGKILL"):
        run_once(after(**changes))
    assert run_once(after(**changes)).values["quality"] == run_once(after(study="unbroken")).values["quality"]


def test_a_killed_scoring_goes_on(after: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(self: Records, record: Any) -> None:
        if self.path.name.startswith("scores-") and len(self.lines) == 3:
            raise KeyboardInterrupt
        append(self, record)

    append = Records.append
    with monkeypatch.context() as patch:
        patch.setattr(Records, "append", dies)
        with pytest.raises(KeyboardInterrupt):
            run_once(after(devices=2))
    folder = Path(run_once(after(devices=2)).folder)
    [path] = folder.glob("scores-*.jsonl")
    scored = [json.loads(line)["utterance"] for line in path.read_text().splitlines()]
    assert sorted(scored) == [f"u/{index}" for index in range(6)]  # none was scored twice
    assert sorted(indices(folder)) == [0, 1, 2]  # nor decoded
    assert untimed(store.read(folder).values) == untimed(run_once(after(study="unbroken")).values)


def test_ctrl_c_finishes_the_batches_and_the_run_goes_on(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"decoding.batch_size": 1, "dataset.limit": 8, "devices": 2}
    unbroken = run_once(config(**changes, study="unbroken"))
    with monkeypatch.context() as patch:
        patch.setattr(Records, "append", interrupting(Records.append))
        with pytest.raises(KeyboardInterrupt):
            run_once(config(**changes))
    folder = Path(unbroken.folder).parents[1] / "tiny" / unbroken.values["run_id"]
    assert 1 <= len(indices(folder)) <= 3
    resumed = run_once(config(**changes))
    assert sorted(indices(folder)) == list(range(8))  # none was done twice
    assert untimed(resumed.values) == untimed(unbroken.values)


def interrupting(append: Any) -> Any:
    def appending(self: Records, record: Any) -> None:
        append(self, record)
        if len(self.lines) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    return appending


def test_a_start_with_nothing_left_to_decode_has_the_same_result(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = run_once(config(devices=2, study="unbroken"))
    with monkeypatch.context() as patch:
        patch.setattr(run.store, "write", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            run_once(config(devices=2))
    devices.shut_down()
    assert untimed(run_once(config(devices=2)).values) == untimed(unbroken.values)


def test_more_devices_than_there_are(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate.torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match="devices=8: this machine offers 4 CUDA"):
        check(config(device="cuda", devices=8))
    with pytest.raises(ConfigError, match="devices=2: device=cuda:1 is one device"):
        check(config(device="cuda:1", devices=2))
    with pytest.raises(ConfigError, match="devices=0: 1 to 10,000"):
        check(config(devices=0))
    assert check(config(device="cuda", devices=4)).devices == 4


def begun(config: dict[str, Any], folder: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A run in a process group of its own, and its two workers once both have loaded their models."""
    (folder / "config.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "tests.tiny.killed", str(folder / "config.json")]
    process = subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until(lambda: len(set(loads(folder))) == 2 or process.poll() is not None)
    return process, loads(folder)


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_outlive_ctrl_c_and_not_the_main_process(config: Config, watched: Any, tmp_path: Path) -> None:
    process, workers = begun(config(target=watched(delay=600), devices=2), tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; a batch is finished first
    time.sleep(1)
    assert process.poll() is None
    assert all(map(alive, workers))
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, workers)), 20)


def test_one_process_tells_the_logger_of_each_utterance(config: Config) -> None:
    logger = {"_target_": "pcg.tracking.wandb.WandB", "mode": "offline", "timelines": 0, "audio": 0}
    result = run.run_once(config(devices=2, logger=logger))
    steps = history(Path(result.folder))
    assert [step["step"] for step in steps] == list(range(6))
    assert steps[-1]["run/alpha"] == pytest.approx(result.values["acceptance"]["alpha"])
    assert steps[-1]["run/done"] == 1
