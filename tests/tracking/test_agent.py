"""conf/wandb_sweeps: the lines that W&B's agents make of them are right, and a stand-in for the agent runs some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from pcg.command.cli import CONF, check_command_line
from tests.tracking.offline import items, records, summary
from tests.warm import start

SWEEPS = sorted((Path(CONF) / "wandb_sweeps").glob("*.yaml"))
ROOT = Path(CONF).parent


def points(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """The first and the last values of all parameters."""
    return [
        {key: (told["values"][place] if "values" in told else told["min" if place == 0 else "max"])
         for key, told in sweep["parameters"].items()}
        for place in (0, -1)
    ]  # fmt: skip


def line(sweep: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """What W&B's own code makes of ``command`` for a point, as its agent does."""
    told = create_sweep_command_args({"args": {key: {"value": value} for key, value in point.items()}})
    words: list[str] = []
    for word in create_sweep_command(sweep["command"]):
        words += told.get(word[2:-1], [] if word == "${env}" else [word])
    return words


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_every_line_of_an_agent_is_right(file: Path) -> None:
    sweep = yaml.safe_load(file.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    for point in points(sweep):
        program, command, *overrides = line(sweep, point)
        assert (program, command) == ("pcg", "run")
        check_command_line("run", overrides)
    if "metric" in sweep:
        assert any(word.startswith("objective=") for word in sweep["command"])
        assert sweep["metric"] == {"name": "objective", "goal": "maximize"}


@pytest.mark.slow
def test_an_agents_runs_are_its_runs(tmp_path: Path) -> None:
    sweep = yaml.safe_load((Path(CONF) / "wandb_sweeps" / "search.yaml").read_text())
    small = ["dataset.limit=1", "decoding.max_tokens=12", f"paths.outputs={tmp_path}", "logger.mode=offline"]
    for number, point in enumerate([*points(sweep), points(sweep)[0]]):  # the last is there already
        parameters = tmp_path / f"config-{number}.yaml"
        told = {"wandb_version": 1, **{key: {"value": value} for key, value in point.items()}}
        parameters.write_text(yaml.safe_dump(told))
        environment = {
            "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": f"run{number}", "WANDB_PROJECT": "speech", "WANDB_ENTITY": "me",
            "WANDB_SWEEP_PARAM_PATH": str(parameters),
        }  # fmt: skip
        _, command, *overrides = line(sweep, point)
        done = start(ROOT / "experiments" / f"{command}.py", [*overrides, *small], tmp_path, **environment)
        assert done.returncode == 0, done.stderr
    ids = {}
    for folder in (tmp_path / "wandb_search").glob("*/"):
        if not (folder / "result.json").is_file():
            continue
        for offline in sorted(folder.glob("wandb/offline-run-*")):
            whole = tmp_path / offline.name / "wandb"
            whole.mkdir(parents=True)
            offline.rename(whole / offline.name)
            found = [record.run for record in records(whole.parent) if record.run.run_id]
            ids[found[0].run_id] = (found[0].sweep_id, summary(whole.parent)["objective"])
            config = {key: value for run in found for key, value in items(run.config.update).items()}
            assert config["grouping.theta"] in (0.25, 0.7)
    assert set(ids) == {"run0", "run1", "run2"}
    assert {sweep_id for sweep_id, _ in ids.values()} == {"s1"}
    assert ids["run0"][1] == ids["run2"][1]
