"""What only asks writes nothing; what cannot be done ends without a traceback; the status of a sweep is its own."""

from __future__ import annotations

import contextlib
import os
import pickle
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from pcg.command import callbacks, relog
from pcg.command.callbacks import StudyReport
from pcg.config.validate import ConfigError
from pcg.report import report
from pcg.runner.run import RunFailed, run_once
from pcg.runner.tracking import log_again
from tests.warm import start

Config = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]


def command(folder: Path, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """An entry point, started in a folder of its own."""
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, timeout=200, encoding="utf-8",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "status"),
    [
        ("run", ["status=true"], 0),
        ("run", ["-m", "dry=true", "target=llasa_1b", "draft=none,ngram", "hydra/launcher=joblib"], 2),
        ("run", ["-m", "status=true", "draft=none,ngram", "paths.outputs=/dev/null"], 0),
        ("run", ["paths.outputs=/dev/null"], 2),
    ],
)
def test_asking_writes_nothing(name: str, arguments: list[str], status: int, tmp_path: Path) -> None:
    done = start(ROOT / "experiments" / f"{name}.py", arguments, tmp_path)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    if "dry=true" not in arguments:  # its plan needs the shape of a model that may not be here
        assert done.returncode == status, said


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("report", ["study=nope"]),
        ("relog", ["study=nope"]),
        ("run", ["-m", "paths.outputs=/dev/null", "seed=1,2"]),
        ("offline", ["paths.outputs=/dev/null"]),
    ],
)
def test_what_is_refused_writes_nothing(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends before Hydra begins, so a process of its own would show no more."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "experiments" / f"{name}.py"), run_name="__main__")
    assert end.value.code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "en_US.ISO-8859-1"])
def test_every_locale_is_utf8(locale: str, tmp_path: Path) -> None:
    """As far as the study's name, a text and an error that hold other letters than it knows."""
    environment = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    (tmp_path / "lines.txt").write_text("Zażółć gęślą jaźń. ∑", encoding="utf-8")
    done = command(
        tmp_path, "run", "-m", "dataset=texts", "dataset.path=lines.txt", "study='größe'", "draft=none", "metrics=none",
        "logger=none", "max_failures=0", "decoding.max_tokens=4", "target.path='größe'", **environment,
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    assert "Unicode" not in said
    assert done.returncode == 1, said
    assert "größe/tokens.json" in said
    (failed,) = tmp_path.glob("outputs/größe/*/failed.txt")
    assert "größe" in failed.read_text(encoding="utf-8")


def swept(config: dict[str, Any], *runs: dict[str, Any]) -> int:
    """The status of a sweep over these runs, which has the callback around it."""
    whole = OmegaConf.create({"paths": config["paths"], "study": config["study"], "status": False, "dry": False})
    around = StudyReport()
    around.on_multirun_start(whole)
    for each in runs:
        with contextlib.suppress(RunFailed):
            run_once(each)
    try:
        around.on_multirun_end(whole)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "show", lambda folder: folder)


def test_a_sweep_answers_for_its_own_runs_only(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    bad = config(**{"dataset.poison": [0, 1, 2], "max_failures": 0})
    assert swept(bad, bad, config()) == 1
    assert "cannot say poison" in capsys.readouterr().err
    assert swept(bad, config(seed=1)) == 0
    assert capsys.readouterr().err == ""
    assert swept(bad, config(seed=1), bad) == 1
    assert swept(bad) == 0


def test_a_sweep_in_which_a_run_fails_before_it_has_a_folder(config: Config) -> None:
    def fails(folder: Path) -> Path:
        callbacks.gave_up.append("no such dataset")
        return folder

    around = StudyReport()
    whole = OmegaConf.create({"paths": config()["paths"], "study": "tiny", "status": False, "dry": False})
    around.on_multirun_start(whole)
    fails(Path())
    with pytest.raises(SystemExit) as end:
        around.on_multirun_end(whole)
    assert end.value.code == 1
    around.on_multirun_start(whole)
    around.on_multirun_end(whole)


def test_what_fails_in_a_launchers_process_is_told(config: Config, monkeypatch: Any, capsys: Any) -> None:
    around = StudyReport()
    whole = OmegaConf.create({"paths": config()["paths"], "study": "tiny", "status": False, "dry": False})
    around.on_multirun_start(whole)
    taken_along = pickle.loads(pickle.dumps(around))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(callbacks, "_PROCESS", "another")
        callbacks.gave_up.append("no such dataset")
        taken_along.on_job_end(whole, JobReturn())
    assert callbacks.gave_up == []
    with pytest.raises(SystemExit):
        around.on_multirun_end(whole)
    assert "failed: no such dataset" in capsys.readouterr().err
    assert list(Path(config()["paths"]["outputs"]).rglob(".gave-up*")) == []


def test_a_report_that_fails_is_told(config: Config, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fails(folder: Path) -> Path:
        raise PermissionError(f"{folder}: read-only")

    monkeypatch.setattr(report, "show", fails)
    assert swept(config(), config()) == 1
    assert "The report failed: PermissionError" in capsys.readouterr().err


def test_what_relog_is_asked_for_is_checked(config: Config) -> None:
    run_once(config())
    asked = {"paths": config()["paths"], "study": "tiny", "logger": {"_target_": "pcg.tracking.wandb.WandB"}}
    assert relog.check(asked) == ["tiny"]
    for change, words in (
        ({"study": "tinny"}, "study=tinny: no finished run at .* did you mean 'tiny'"),
        ({"logger": {"_target_": None}}, "logger is required"),
        ({"logger": {**asked["logger"], "mode": "ofline"}}, "logger.mode='ofline'"),
    ):
        with pytest.raises(ConfigError, match=words):
            relog.check({**asked, **change})


def test_relog_says_what_was_not_taken(config: Config, tmp_path: Path) -> None:
    run_once(config())
    with pytest.raises(RuntimeError, match="1 of 1 runs could not be logged"):
        log_again(tmp_path / "outputs" / "tiny", {"_target_": "pcg.tiny.Recorder", "fails": True})
