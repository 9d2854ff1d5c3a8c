"""What was logged is read back from the offline run's own file and held against result.json."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from wandb.proto import wandb_internal_pb2

from pcg.tracking.wandb import WandB, flatten
from pcg.types import Result

VALUES: dict[str, Any] = {
    "schema": 1,
    "run_id": "0123456789",
    "study": "tiny",
    "label": "pcg theta=0.4",
    "method": "pcg",
    "overrides": ["grouping=pcg"],
    "config": {"seed": 3, "decoding": {"gamma": 4}, "draft": None},
    "git": {"commit": "abc", "dirty": False},
    "versions": {"torch": "2.13.0"},
    "device": "cpu",
    "started": "2026-01-01T00:00:00+00:00",
    "wall_seconds": 12.5,
    "failures": [],
    "counts": {"accepted": 10, "accepted_by_position": [6, 4]},
    "acceptance": {"alpha": 0.625, "alpha_ci95": [0.5, 0.75], "alpha_exact": None},
    "quality": {"wer": 0.0417},
}
ROWS = [
    {"utterance": "u0", "text": "one", "audio": "audio/u0.wav", "tested": 8, "accepted": 5, "tokens": [1, 2]},
    {"utterance": "u1", "text": "two", "audio": None, "tested": 8, "accepted": 5, "tokens": [3]},
]


@pytest.fixture
def result(tmp_path: Path) -> Result:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/u0.wav", np.zeros(160), 16_000)
    (tmp_path / "result.json").write_text(json.dumps(VALUES))
    return Result(str(tmp_path), VALUES)


def records(folder: Path) -> list[Any]:
    """The records of an offline run: 7 bytes of header, then blocks of 32 KiB of (crc, length, type, data)."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, whole, found = path.read_bytes(), b"", []
    for kind, chunk in chunks(data):
        whole += chunk
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, block = 7, 32_768
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        yield kind, data[at + 7 : at + 7 + length]
        at += 7 + length


def items(updates: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def test_offline_run_holds_what_result_json_holds(result: Result, tmp_path: Path, capsys: Any) -> None:
    WandB(project="speech", tags=["test"], mode="offline").log(result, ROWS, tmp_path)
    found = records(tmp_path)
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"][:1]
    assert (run.project, run.run_group, run.job_type) == ("speech", "tiny", "run")
    assert run.run_id == "tiny-0123456789"
    assert list(run.tags) == ["test", "pcg"]
    config = items(run.config.update)
    assert config["seed"] == 3
    assert config["decoding"] == {"gamma": 4}
    assert config["versions"] == {"torch": "2.13.0"}
    assert config["git"] == {"commit": "abc", "dirty": False}

    summary: dict[str, Any] = {}
    for record in found:
        summary |= items(record.summary.update)
    for key, value in flatten({key: VALUES[key] for key in ("counts", "acceptance", "quality")}).items():
        assert summary[key] == value
    history = [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    assert [step["utterance/accepted"] for step in history if "utterance/accepted" in step] == [5, 5]
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.table.json")
    assert "audio" in json.loads(table.read_text())["columns"]
    assert any(record.request.log_artifact.ByteSize() or record.artifact.type == "result" for record in found)
    assert capsys.readouterr().out == ""


def test_everything_that_a_later_sync_needs_lies_under_the_run(result: Result, tmp_path: Path) -> None:
    WandB(mode="offline").log(result, ROWS, tmp_path)
    staged = [path for path in tmp_path.glob("wandb/**/*") if path.is_file() and path.stat().st_size == 364]
    assert staged  # the audio
    for record in records(tmp_path):
        for entry in record.artifact.manifest.contents:
            if entry.local_path:
                assert Path(entry.local_path).is_relative_to(tmp_path)


def test_disabled_writes_nothing(result: Result, tmp_path: Path) -> None:
    WandB(mode="disabled").log(result, ROWS, tmp_path)
    assert not (tmp_path / "wandb").exists()


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [2, 3]}, "d": None}) == {"a.b": 1, "a.c.0": 2, "a.c.1": 3, "d": None}
