"""``logger.artifacts=all``: checkpoints and groups as artifacts by content, read back from an offline run's file."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import wandb

from pcg.files import cache_folder
from pcg.groups.table import GroupTable
from pcg.runner.run import run_once
from pcg.runner.tracking import log_again
from pcg.tracking.inputs import log_inputs
from pcg.types import Input
from tests.tracking.offline import artifacts, records

LOGGER = {"_target_": "pcg.tracking.wandb.WandB", "mode": "offline", "timelines": 0, "audio": 0}
GROUPS = {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.5, "source": "target_input"}


@pytest.fixture
def as_pcg(config) -> Any:
    return lambda **logger: config(
        grouping={"_target_": "pcg.acceptance.pcg.PCG", "groups": GROUPS}, logger={**LOGGER, **logger}
    )


def test_a_runs_groups_are_an_artifact_that_its_result_names(as_pcg, tmp_path: Path) -> None:
    result = run_once(as_pcg(artifacts="all"))
    key = result.values["groups"]["key"]
    found = records(Path(result.folder))
    (file,) = artifacts(found)["groups"].values()
    assert file == cache_folder() / f"groups-{key}.safetensors"  # no copy is made
    assert len(GroupTable.load(file)) == result.values["groups"]["groups"]
    (kept,) = [record.artifact for record in found if record.artifact.type == "result"]
    assert json.loads(kept.metadata) == {"inputs": {"grouping.groups": f"groups-{key}"}}

    file.unlink()  # a cache may be emptied
    log_again(tmp_path / "outputs" / "tiny", {**LOGGER, "artifacts": "all"})
    assert set(artifacts(records(Path(result.folder)))) == {"result", "run_table"}


def test_nothing_is_kept_that_was_not_asked_for(as_pcg) -> None:
    result = run_once(as_pcg())
    found = records(Path(result.folder))
    assert set(artifacts(found)) == {"result", "run_table"}
    (kept,) = [record.artifact for record in found if record.artifact.type == "result"]
    assert not kept.metadata or json.loads(kept.metadata) == {}


@pytest.fixture
def inputs(tmp_path: Path) -> list[Input]:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "config.json").write_text("{}")
    files = {name: tmp_path / name for name in ("model.safetensors", "config.json")}
    return [
        Input("checkpoint", "0123456789", ("draft.path",), files),
        Input("checkpoint", "89abcdef01", ("target.path", "target.text.path"), source="owner/name"),
    ]


class Online:
    """A run of W&B that is online, as far as ``log_inputs`` knows it."""

    offline = False

    def __init__(self, answers: bool = True) -> None:
        self.used: list[wandb.Artifact] = []
        self.answer = threading.Event()
        if answers:
            self.answer.set()

    def use_artifact(self, artifact: wandb.Artifact) -> None:
        self.answer.wait()
        self.used.append(artifact)


def test_online_they_are_inputs_named_by_content(inputs: list[Input]) -> None:
    run, again = Online(), Online()
    log_inputs(run, inputs, timeout=10)
    log_inputs(again, inputs, timeout=10)
    assert [(one.name, one.type) for one in run.used] == [
        ("checkpoint-0123456789", "checkpoint"), ("checkpoint-89abcdef01", "checkpoint")
    ]  # fmt: skip
    # W&B takes the files of a digest once.
    assert [one.digest for one in run.used] == [one.digest for one in again.used]
    assert sorted(run.used[0].manifest.entries) == ["config.json", "model.safetensors"]
    (named,) = run.used[1].manifest.entries.values()  # of a hub model no weights are sent
    assert json.loads(Path(named.local_path).read_text()) == {"source": "owner/name", "digest": "89abcdef01"}


def test_a_service_that_stops_answering_is_waited_for_no_longer_than_asked(inputs: list[Input]) -> None:
    run = Online(answers=False)
    with pytest.raises(TimeoutError, match=r"W&B has not taken checkpoint-0123456789 in 0\.05 s"):
        log_inputs(run, inputs, timeout=0.05)
    run.answer.set()


def test_what_the_service_says_is_raised(inputs: list[Input], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise wandb.errors.CommError("the project is full")

    run = Online()
    monkeypatch.setattr(run, "use_artifact", full)
    with pytest.raises(wandb.errors.CommError, match="the project is full"):
        log_inputs(run, inputs, timeout=10)
