"""SIGKILL at random moments: what is started again often enough ends as an unbroken run does."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from pcg.results import store
from pcg.runner.run import run_once
from pcg.types import Result
from tests.runner.test_run import figures
from tests.tiny import killed


def started(path: Path) -> BaseProcess:
    """The run's process, past its imports, which are most of its life and write nothing: pcg.runner.devices has them
    done once for all processes that are forked from its server."""
    context = multiprocessing.get_context("forkserver")
    begins = context.Event()
    process = context.Process(target=killed.live, args=(path, begins))
    process.start()
    assert begins.wait(100)
    return process


def finished_in_spite_of_kills(path: Path, kills: int, study: Path) -> list[Result]:
    """Every result that the run came to while it was killed ``kills`` times, and after.

    A run that finishes before its moment comes is begun anew, with shorter lives, so that kills fall on loading,
    decoding, appending and writing alike.
    """
    moments, done, life, found = random.Random(0), 0, 1.0, []
    while True:
        process = started(path)
        if done < kills:
            time.sleep(moments.uniform(0, life))
            if process.is_alive():
                process.kill()
                done += 1
        process.join(100)
        assert process.exitcode in (0, -signal.SIGKILL)
        if results := store.read_study(study):
            found += results
            assert_nothing_twice(Path(results[0].folder))
            if done == kills:
                return found
            shutil.rmtree(study)
            life *= 0.8


def assert_nothing_twice(folder: Path) -> None:
    lines = (folder / "batches.jsonl").read_text().splitlines()
    assert [json.loads(line)["batch"] for line in lines] == list(range(12))


@pytest.mark.parametrize("kills", [5, pytest.param(25, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_as_an_unbroken_one(config, tmp_path: Path, kills: int) -> None:
    changes = {"dataset.limit": 12, "decoding.batch_size": 1}
    unbroken = run_once(config(**changes)).values
    broken = config(**changes)
    broken["paths"] = {"outputs": str(tmp_path / "broken")}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(broken))
    for result in finished_in_spite_of_kills(path, kills, tmp_path / "broken" / "tiny"):
        assert figures(result.values) == figures(unbroken)
