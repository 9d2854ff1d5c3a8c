"""What was logged is read back from the offline run's own file and held against result.json."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import wandb

from pcg.tracking import wandb as wandb_module
from pcg.tracking.media import KINDS, picture
from pcg.tracking.wandb import WandB, flatten
from pcg.types import Result
from tests.tracking.offline import artifacts, items, records

VALUES: dict[str, Any] = {
    "schema": 1,
    "run_id": "0123456789",
    "study": "tiny",
    "label": "pcg theta=0.4",
    "method": "pcg",
    "overrides": ["grouping=pcg"],
    "config": {"seed": 3, "device": "cpu", "decoding": {"gamma": 4}, "draft": None},
    "git": {"commit": "abc", "dirty": False},
    "versions": {"torch": "2.13.0"},
    "device": "cpu (a make)",
    "started": "2026-01-01T00:00:00+00:00",
    "wall_seconds": 12.5,
    "failures": [],
    "figures": {},
    "counts": {"accepted": 10, "accepted_by_position": [6, 4]},
    "acceptance": {"alpha": 0.625, "alpha_ci95": [0.5, 0.75], "alpha_exact": None},
    "quality": {"wer": 0.0417},
    "groups": {"groups": 7, "histogram": {"edges": [1, 2, 4, 8], "counts": [4, 2, 1]}},
}
ROWS = [
    {"utterance": "u0", "text": "one", "audio": "audio/u0.wav", "tested": 8, "accepted": 5, "tokens": [1, 2],
     "kinds": ["group", "bonus"]},
    {"utterance": "u1", "text": "two", "audio": None, "tested": 8, "accepted": 5, "tokens": [3], "kinds": None},
]  # fmt: skip


def log(logger: WandB, result: Result, rows: list[dict[str, Any]], folder: Path) -> None:
    run = logger.begin(result.values, folder, live=False)
    for step, row in enumerate(rows):
        run.add(step, row, {})
    run.finish(result, rows)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/u0.wav", np.zeros(160), 16_000)
    (tmp_path / "result.json").write_text(json.dumps(VALUES))
    return Result(str(tmp_path), VALUES)


@pytest.mark.parametrize("study", ["a+b", "größe", "日本" * 20, "s" * 113, "s" * 200])
def test_every_name_that_a_study_may_have_is_taken(study: str, result: Result, tmp_path: Path) -> None:
    values = {**VALUES, "study": study, "label": "pcg " * 50}
    log(WandB(tags=["t" * 64]), Result(result.folder, values), ROWS, tmp_path)
    (run,) = [record.run for record in records(tmp_path) if record.WhichOneof("record_type") == "run"][:1]
    assert re.fullmatch(r"[A-Za-z0-9_.-]{12,111}-0123456789", run.run_id)
    assert len(run.run_group) <= 128
    assert len(run.display_name) <= 128
    assert run.run_group[:100] == study[:100]


def test_studies_that_differ_in_signs_are_logged_apart(result: Result) -> None:
    names = {
        wandb_module._run_name({**VALUES, "study": study})
        for study in ("a+b", "a_b", "aöb", "aüb", "x" * 111, "x" * 112)
    }
    assert len(names) == 6


def test_an_offline_run_has_names_config_and_group_sizes(result: Result, tmp_path: Path, capsys: Any) -> None:
    log(WandB(project="speech", tags=["test"], mode="offline"), result, ROWS, tmp_path)
    found = records(tmp_path)
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"][:1]
    assert (run.project, run.run_group, run.job_type) == ("speech", "tiny", "run")
    assert run.run_id == "tiny-0123456789"
    assert list(run.tags) == ["test", "pcg"]
    config = items(run.config.update)
    assert config["seed"] == 3
    assert config["decoding"] == {"gamma": 4}
    assert config["versions"] == {"torch": "2.13.0"}
    assert (config["device"], config["device_name"]) == ("cpu", "cpu (a make)")
    assert config["git"] == {"commit": "abc", "dirty": False}

    history = [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    (sizes,) = [step for step in history if "group_sizes._type" in step]
    assert sizes["group_sizes._type"] == "histogram"
    assert (sizes["group_sizes.values"], sizes["group_sizes.bins"]) == ([4, 2, 1], [1, 2, 4, 8])
    assert json.loads(artifacts(found)["result"]["result.json"].read_text()) == VALUES
    assert capsys.readouterr().out == ""


def test_everything_that_a_later_sync_needs_lies_under_the_run(result: Result, tmp_path: Path) -> None:
    log(WandB(mode="offline"), result, ROWS, tmp_path)
    staged = [path for files in artifacts(records(tmp_path)).values() for path in files.values()]
    assert len(staged) == 4  # a clip, a picture, their table; result.json
    assert all(path.is_relative_to(tmp_path) and path.is_file() for path in staged)


def test_the_table_can_be_heard_and_seen(result: Result, tmp_path: Path) -> None:
    log(WandB(mode="offline"), result, ROWS, tmp_path)
    staged = artifacts(records(tmp_path))["run_table"]
    table = json.loads(staged["utterances.table.json"].read_text())
    first, second = (dict(zip(table["columns"], row, strict=True)) for row in table["data"])
    assert (first["text"], first["alpha"]) == ("one", 5 / 8)
    assert staged[first["audio"]["path"]].read_bytes() == (tmp_path / "audio/u0.wav").read_bytes()
    assert staged[first["timeline"]["path"]].read_bytes()[:4] == b"\x89PNG"
    assert first["timeline"]["caption"] == "one"
    assert (second["audio"], second["timeline"]) == (None, None)  # it failed
    assert "tokens" not in table["columns"]


def test_the_timeline_is_a_picture_of_the_tokens(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "u.wav", np.zeros(1600), 16_000)
    pixels = picture({"audio": "u.wav", "kinds": list(KINDS)}, tmp_path)
    lane = pixels[int(0.77 * len(pixels))]
    for place, (color, _) in enumerate(KINDS.values()):
        at = int((0.01 + 0.98 * (place + 0.5) / len(KINDS)) * pixels.shape[1])
        assert bytes(lane[at]).hex() == color[1:]
    assert picture({"audio": None, "kinds": None}, tmp_path) is None


class Broken:
    """A W&B run whose queue is full, and which cannot be finished either."""

    summary: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, finishes: bool) -> None:
        self.finishes, self.ended = finishes, []

    def define_metric(self, *_: Any, **__: Any) -> None:
        """Taken."""

    def log(self, *_: Any, **__: Any) -> None:
        raise wandb.errors.CommError("the queue is full")

    def finish(self, exit_code: int = 0) -> None:
        self.ended.append(exit_code)
        if not self.finishes:
            raise TimeoutError("Timed out finishing run.")


@pytest.mark.parametrize(("finishes", "error"), [(True, wandb.errors.CommError), (False, TimeoutError)])
def test_a_run_that_breaks_is_ended_and_told(
    result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finishes: bool, error: type[Exception]
) -> None:
    run, asked = Broken(finishes), SimpleNamespace()
    monkeypatch.setattr(wandb, "init", lambda **settings: asked.__dict__.update(settings) or run)
    before = dict(os.environ)
    with pytest.raises(error):
        log(WandB(mode="online", timeout=7), result, ROWS, tmp_path)
    assert run.ended == [1]
    assert dict(os.environ) == before
    assert (asked.settings.init_timeout, asked.settings.finish_timeout, asked.settings.login_timeout) == (7, 7, 7)
    assert asked.settings.finish_timeout_raises


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [2, 3]}, "d": None}) == {"a.b": 1, "a.c.0": 2, "a.c.1": 3, "d": None}
