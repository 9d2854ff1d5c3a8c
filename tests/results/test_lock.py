"""Two processes that are asked for one run do it once."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcg.results import lock
from pcg.runner.run import run_once
from tests.runner.test_killed import started
from tests.tiny.parts import calls

Config = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
_HOLD = "import sys, time; from pathlib import Path; from pcg.results import lock\n"
_HOLD += "with lock.held(Path(sys.argv[1]), 'run'): print('held', flush=True); time.sleep(600)"


def holding(folder: Path) -> subprocess.Popen[str]:
    """A process that has the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], cwd=ROOT, text=True, stdout=subprocess.PIPE
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_two_processes_do_one_run_once_and_both_have_its_result(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asked = config(**{"dataset.limit": 12, "decoding.batch_size": 1})
    (tmp_path / "config.json").write_text(json.dumps(asked))
    other = started(tmp_path / "config.json")
    try:
        mine = run_once(asked)
        other.join(100)
        assert other.exitcode == 0
    finally:
        other.kill()
        other.join()
    lines = (Path(mine.folder) / "batches.jsonl").read_text().splitlines()
    assert [json.loads(line)["batch"] for line in lines] == list(range(12))
    assert json.loads((Path(mine.folder) / "result.json").read_text()) == mine.values


def test_who_holds_it_is_said_and_a_killed_process_holds_nothing(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = Path(run_once(config()).folder)
    (folder / "result.json").unlink()
    other = holding(folder)
    assert f"process {other.pid} on " in str(lock.holder(folder))
    killer = threading.Timer(0.5, other.kill)
    killer.start()
    began = time.monotonic()
    run_once(config())
    assert time.monotonic() - began >= 0.4
    other.communicate()
    assert f"exact: waiting for process {other.pid} on " in caplog.text
    assert lock.holder(folder) is None


def test_a_result_that_came_while_waiting_is_returned(config: Config, tmp_path: Path) -> None:
    folder = Path(run_once(config()).folder)
    result = (folder / "result.json").read_bytes()
    (folder / "result.json").unlink()
    before = dict(calls)
    with holding(folder) as other:

        def finish() -> None:
            (folder / "result.json").write_bytes(result)
            other.kill()

        threading.Timer(0.3, finish).start()
        assert run_once(config()).values == json.loads(result)
    assert calls == before


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert lock.holder(tmp_path) is None


def test_a_file_system_without_locks_is_told_of_and_held_against_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    with lock.held(tmp_path, "run"):
        assert lock.holder(tmp_path) is None
    assert "this file system has no locks" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("joblib") is None, reason="an extra: pip install -e '.[sweeps]'")
def test_duplicates_of_a_parallel_sweep_over_two_devices_end_with_one_run(tmp_path: Path) -> None:
    arguments = ["draft=none", "grouping=exact,ssd", "devices=2", "device=cpu", "dataset.limit=2", "metrics=none",
                 "decoding.max_tokens=8", "logger=none", "study=twice", f"paths.outputs={tmp_path}",
                 "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "experiments/run.py", "-m", *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr  # and ended: no launcher's process waits for its workers
    [records] = tmp_path.glob("twice/*/batches.jsonl")
    assert sorted(json.loads(line)["batch"] for line in records.read_text().splitlines()) == [0, 1]
    assert done.stdout.count("already done") == 1


def test_one_at_a_time_has_its_turn(tmp_path: Path) -> None:
    path = tmp_path / ".decoding"
    with lock.turn(path), path.open("a") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with lock.turn(None):
        pass
