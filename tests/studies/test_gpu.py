"""The bench of a GPU, tried whole on a CPU with tiny shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pcg.config.validate import ConfigError
from pcg.studies import gpu


def config(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "paths": {"outputs": str(tmp_path)}, "study": "gpu", "device": "cpu", "threads": 1, "shape": "tiny",
        "dtype": "float32", "compile": False, "gamma": 2, "batches": [1, 2], "tokens": 12, "prompt_tokens": 20,
        "repeats": 1, **changes,
    }  # fmt: skip


def test_every_contestant_is_timed_at_every_batch(tmp_path: Path) -> None:
    values = json.loads(gpu.measure(config(tmp_path)).read_text())
    assert [(row["batch"], row["contestant"]) for row in values["rows"]] == [
        (batch, name)
        for batch in (1, 2)
        for name in ("target alone", "exact", "pcg", "coupling", "eagle, exact", "eagle, pcg", "eagle, coupling")
    ]
    for row in values["rows"]:
        assert row["tokens_per_second"] > 0
        assert row["of_bandwidth"] > 0  # times: no more is known of a busy machine
    assert (tmp_path / "gpu" / "gpu.md").read_text().count("eagle, pcg") == 2


def test_groups_are_a_ring() -> None:
    table = gpu.groups_of(10, 3)
    assert table.report()["mean_size"] == pytest.approx(31 / 11)
    assert table.symmetric
    starts = table.member_starts.tolist()
    assert table.members[starts[0] : starts[1]].tolist() == [0, 1, 9]
    assert table.members[starts[10] :].tolist() == [10]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        gpu.check(config(tmp_path, shape="large", batches=[0], gamma=0))
    assert len(found.value.problems) == 3
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU that torch can use is here"):
            gpu.check(config(tmp_path, device="cuda"))
