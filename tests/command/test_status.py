"""``status=true`` says how far each run of a sweep is, and starts none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcg.command import status
from pcg.results import lock, store
from pcg.runner.run import RunFailed, run_once
from tests.tiny.parts import calls
from tests.warm import start

Config = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_state(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done, missing = config(**{"dataset.poison": [1]}), config(seed=9)
    partial, running, failed = config(seed=1), config(seed=2), config(**{"seed": 3, "dataset.poison": [0, 2, 4]})
    failed["max_failures"] = 1
    run_once(done)
    with pytest.raises(RunFailed):
        run_once(failed)
    cut = []
    for each in (partial, running):
        cut.append(Path(run_once(each).folder))
        (cut[-1] / store.NAME).unlink()
        lines = (cut[-1] / "batches.jsonl").read_bytes().splitlines(keepends=True)
        (cut[-1] / "batches.jsonl").write_bytes(lines[0] + lines[1][:50])  # the second is being written
    before, loaded = files(tmp_path), calls["models"]
    with lock.held(cut[1], "exact"):
        before = files(tmp_path)
        for each in (done, missing, partial, running, failed, done, {**done, "max_failures": 7}):
            status.ask(each)
        assert list(status._asked.values()) == [
            status.Status("exact", Path(run_once(done).folder).name, "done", 5, 6),
            status.Status("exact", status.of(missing).run_id, "missing", 0, 6),
            status.Status("exact", cut[0].name, "partial", 2, 6),
            status.Status("exact", cut[1].name, "running", 2, 6, lock.holder(cut[1]) or "?"),
            status.Status(
                "exact", status.of(failed).run_id, "failed", 2, 6,
                "RunFailed: 2 utterance(s) failed (max_failures=1): - u/0: RuntimeError: cannot say poison "
                "- u/2: RuntimeError: cannot say poison",
            ),
        ]  # fmt: skip
        capsys.readouterr()
        status.show_asked()
        assert files(tmp_path) == before
    assert calls["models"] == loaded
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == (
        "5 run(s): 1 done, 1 running, 1 failed, 1 partial, 1 missing; 11 of 30 utterances"
    )
    assert printed.count("missing") == 2
    assert not status._asked


def test_a_set_of_the_hub_is_not_fetched_to_ask(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)  # what a command that only asks sets by the environment
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    there = {"_target_": "pcg.data.libritts.LibriTTS", "path": "nobody/nothing", "config": "clean", "split": "test"}
    status.ask({**config(), "dataset": there})
    status.show_asked()
    printed = capsys.readouterr().out
    assert "nobody/nothing" in printed
    assert printed.splitlines()[-1].startswith("1 run(s): 0 done, 0 running, 0 failed, 0 partial, 0 missing, 1 unknown")


@pytest.mark.slow
def test_a_sweep_is_told_as_one_table_whatever_would_launch_it(tmp_path: Path) -> None:
    arguments = ["draft=none,ngram", "grouping=exact,ssd", f"paths.outputs={tmp_path}", "dataset.limit=2",
                 "status=true", "study=swept", "hydra/launcher=submitit_slurm", "hydra.launcher.x=1"]  # fmt: skip
    done = start(ROOT / "experiments" / "run.py", ["-m", *arguments], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == (
        "3 run(s): 0 done, 0 running, 0 failed, 0 partial, 3 missing; 0 of 6 utterances"
    )
    assert done.stdout.count("target alone") == 1
    assert not list(tmp_path.rglob("batches.jsonl"))


def test_signs_of_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "[b]x[/] :smile: [/no]"
    status.show([status.Status("pcg [red]", "0123456789", "failed", 0, 1, reason)])
    printed = capsys.readouterr().out
    assert reason in printed
    assert "pcg [red]" in printed
