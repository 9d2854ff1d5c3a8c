"""Every launcher and sweeper, end to end on two short runs of the bundled target, as a person would start them."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from pcg.command import launching
from pcg.command.cli import check_command_line
from pcg.config.validate import ConfigError
from tests import warm
from tests.command.test_main import COMMAND

ROOT = Path(__file__).parents[2]
SHORT = ["draft=ngram", "grouping=exact", "dataset.limit=1", "decoding.max_tokens=8", "metrics=none", "logger=none",
         "device=cpu", "study=swept"]  # fmt: skip
PROGRAM = [sys.executable, str(ROOT / "experiments" / "run.py")]


def plugin(name: str) -> None:
    """Skip where an extra is not installed; in CI, where all but ray are, fail."""
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(f"hydra_plugins.{name}") is None:
        assert "CI" not in os.environ, f"{name} is not installed: pip install -e '.[sweeps]'"
        pytest.skip(f"{name} is not installed: pip install -e '.[sweeps]'")


def sweep(folder: Path, *arguments: str, start: Sequence[str] | None = PROGRAM, **environment: str) -> list[dict]:
    """Start a sweep from a folder of its own; its results. Nothing may lie in that folder afterwards but outputs/.

    Args:
        start: an interpreter of its own, and what it runs; None forks one that has its imports behind it.
    """
    line = ["-m", *SHORT, *arguments]
    if start is None:
        done = warm.start(ROOT / "experiments" / "run.py", line, folder, **environment)
    else:
        done = subprocess.run(
            [*start, *line],
            cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True,
            timeout=280,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir() if path.name != "bin"] == ["outputs"], done.stdout
    assert (folder / "outputs" / "swept" / "report" / "table.md").exists()
    return [json.loads(path.read_text()) for path in (folder / "outputs" / "swept").glob("*/result.json")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "launcher", "start"),
    [
        ("hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], [*COMMAND, "run"]),
        ("hydra_submitit_launcher", ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=1"], PROGRAM),
    ],
)
def test_a_launcher_on_this_machine(name: str, launcher: list[str], start: list[str], tmp_path: Path) -> None:
    """From the console command and from a clone: both pickle a task that lies in ``__main__``."""
    plugin(name)
    found = sweep(tmp_path, "decoding.gamma=1,2", *launcher, start=start)
    assert sorted(run["config"]["decoding"]["gamma"] for run in found) == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="300 MB, an extra of its own: docs/sweeps.md")
def test_ray(tmp_path: Path) -> None:
    assert len(sweep(tmp_path, "decoding.gamma=1,2", "hydra/launcher=ray", RAY_USAGE_STATS_ENABLED="0")) == 2


SBATCH = """#!{python}
import os, subprocess, sys
script = sys.argv[-1]
open("{folder}/job.sh", "w").write(open(script).read())
for task in range(2):
    names = dict(SLURM_JOB_ID=str(70 + task), SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(task), SLURM_NTASKS="1",
                 SLURM_JOB_NUM_NODES="1", SLURM_JOB_NODELIST="here", SLURM_NODEID="0", SLURM_PROCID="0",
                 SLURM_LOCALID="0")
    subprocess.Popen(["bash", f"{folder}/job.sh"], env=os.environ | names, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL)
print("Submitted batch job 7")
"""
SRUN = """#!{python}
import os, sys
command = sys.argv[sys.argv.index("{python}"):]
os.execv(command[0], command)
"""
SACCT = """#!{python}
print("JobID|State|NodeList\\n7_0|RUNNING|here\\n7_1|RUNNING|here")
"""


@pytest.mark.slow
def test_slurm_is_asked_for_what_was_configured(tmp_path: Path) -> None:
    """An sbatch of our own takes the script, and starts what it says. docs/sweeps.md: a real one, on one node."""
    plugin("hydra_submitit_launcher")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT)):
        (tools / name).write_text(text.format(python=sys.executable, folder=tools))
        (tools / name).chmod(stat.S_IRWXU)
    found = sweep(
        tmp_path, "decoding.gamma=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "threads=2",
        "hydra.launcher.timeout_min=90", PATH=f"{tools}:{os.environ['PATH']}",
    )  # fmt: skip
    assert len(found) == 2
    script = (tools / "job.sh").read_text()
    for line in (
        "--partition=gpu",
        "--gpus-per-node=1",
        "--cpus-per-task=2",
        "--time=90",
        "--requeue",
        "--array=0-1%2",
    ):
        assert f"#SBATCH {line}\n" in script
    assert f"{tmp_path}/outputs/swept/.submitit/" in script


@pytest.mark.slow
def test_a_search_started_again_goes_on_where_it_was(tmp_path: Path) -> None:
    plugin("hydra_optuna_sweeper")
    search = [
        "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "decoding.gamma=int(interval(1, 9))",
        "objective={maximise: acceptance.tau, subject_to: ['speed.rtf >= 0']}",
    ]  # fmt: skip
    best = tmp_path / "outputs" / "swept" / "optimization_results.yaml"
    first = sweep(tmp_path, *search, start=None)
    found = yaml.safe_load(best.read_text())
    by_gamma = {run["config"]["decoding"]["gamma"]: run["acceptance"]["tau"] for run in first}
    assert found["best_value"] == max(by_gamma.values()) == by_gamma[found["best_params"]["decoding.gamma"]]
    best.unlink()
    again = sweep(tmp_path, *search, start=None)
    assert sorted(run["started"] for run in again) == sorted(run["started"] for run in first)
    assert yaml.safe_load(best.read_text()) == found


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line("run", arguments)
    return caught.value.problems


def test_what_cannot_be_swept_is_named() -> None:
    plugin("hydra_optuna_sweeper")
    interval = "grouping.theta=interval(0.1, 0.3)"
    assert problems("-m", interval)[0].endswith("an interval needs hydra/sweeper=optuna")
    assert "objective" in problems("-m", interval, "hydra/sweeper=optuna")[0]
    assert "theta=3.0" in problems("-m", "experiment=search", "grouping.theta=interval(0.1, 3)")[0]
    assert "status=true: a search" in problems("-m", "experiment=search", "status=true")[0]
    assert "direction=minimize" in problems("-m", "experiment=search", "hydra.sweeper.direction=minimize")[0]
    assert "n_trails" in problems("-m", "experiment=search", "hydra.sweeper.n_trails=3")[0]


def test_no_more_runs_at_once_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin("hydra_submitit_launcher")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert [launching.runs_at_once("cpu", *counts) for counts in ((1, 1), (1, 3), (2, 4), (8, 4))] == [8, 2, 1, 1]
    line = ["-m", "hydra/launcher=submitit_local", "device=cpu", "threads=2", "seed=1,2,3,4,5"]
    assert "add hydra.sweeper.max_batch_size=4" in problems(*line)[0]
    check_command_line("run", [*line, "hydra.sweeper.max_batch_size=4"])
    search = ["-m", "experiment=search", "hydra/launcher=submitit_local", "device=cpu"]
    assert "add hydra.sweeper.n_jobs=8" in problems(*search, "hydra.sweeper.n_jobs=9")[0]
    assert [launching.gpus_of_run(device, 2) for device in ("cuda", "cpu")] == [2, 0]


def test_a_missing_plugin_is_told_with_its_extra() -> None:
    assert launching.missing_extra("hydra/launcher", "joblib") == "; it comes with an extra: pip install -e '.[sweeps]'"
    assert launching.missing_extra("hydra/launcher", "jobli") == ""
