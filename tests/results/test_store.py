"""A result that a crash or a full disk left empty or cut is made anew of the records; what cannot be read is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcg.config.validate import ConfigError
from pcg.results import store
from pcg.runner import rescore, run
from tests.tiny.parts import calls

Config = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("left", ["", "{", "half", "[]", "{}", "null"])
def test_a_broken_result_is_made_anew_of_the_records(
    config: Config, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = run.run_once(config())
    file = Path(made.folder) / store.NAME
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2] if left == "half" else left)
    assert store.read(Path(made.folder)) is None
    assert f"{file} is empty or truncated; run the command of the run again" in caplog.text
    assert store.read_study(Path(made.folder).parent) == []
    with pytest.raises(ConfigError, match="is empty or truncated; run the command of the run again"):
        rescore.check({"run": made.folder, "metrics": {}, "device": "cpu", "threads": 1})
    said = calls["clips"]
    again = run.run_once(config())
    assert calls["clips"] == said  # nothing was decoded or scored again
    assert again.values["quality"] == made.values["quality"]
    assert again.values["acceptance"] == made.values["acceptance"]


@pytest.mark.parametrize("size", [0, 100])
def test_a_table_of_utterances_that_is_cut_is_named(config: Config, size: int) -> None:
    folder = Path(run.run_once(config()).folder)
    table = folder / "utterances.parquet"
    table.write_bytes(table.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"utterances\.parquet is missing or truncated .*: remove result\.json"):
        store.read_utterances(folder)
    (folder / store.NAME).unlink()
    run.run_once(config())
    assert len(store.read_utterances(folder)) == 6


def test_without_its_records_a_run_cannot_be_scored(config: Config) -> None:
    folder = Path(run.run_once(config()).folder)
    (folder / "batches.jsonl").unlink()
    node = {"loudness": {"_target_": "pcg.tiny.Loudness"}}
    with pytest.raises(ValueError, match=r"batches\.jsonl, which lists the files in audio/, is gone or empty"):
        rescore.rescore({"run": str(folder), "metrics": node, "device": "cpu", "threads": 1})
