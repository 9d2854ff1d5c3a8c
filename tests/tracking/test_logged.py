"""What a run leaves on disk and what W&B was told are the same figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pcg.results.store import read_utterances
from pcg.runner.run import run_once
from pcg.runner.tracking import log_again
from pcg.tracking.wandb import flatten
from tests.tracking.offline import artifacts, items, records

LOGGER = {"_target_": "pcg.tracking.wandb.WandB", "mode": "offline", "timelines": 2}


def as_pcg(**changes: Any) -> dict[str, Any]:
    groups = {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.5, "source": "target_input"}
    return {"grouping": {"_target_": "pcg.acceptance.pcg.PCG", "groups": groups}, "logger": LOGGER, **changes}


def test_every_figure_of_the_offline_run_is_that_of_result_json(config) -> None:
    result = run_once(config(**as_pcg(**{"dataset.poison": [4], "codec.hop": 160})))
    folder, values, found = Path(result.folder), dict(result.values), records(Path(result.folder))

    summary: dict[str, Any] = {}
    for record in found:
        summary |= items(record.summary.update)
    (run,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    logged = items(run.config.update)
    for record in found:  # what is known at the end
        logged |= items(record.config.update)
    assert {key: logged[key] for key in values["config"]} == values.pop("config")
    assert logged["device_name"] == values.pop("device")
    for key in ("versions", "git", "overrides", "schema", "started", "failures", "figures"):
        assert logged[key] == values.pop(key)
    flat = flatten(values)
    assert {key: summary.get(key) for key in flat} == flat

    rows = read_utterances(folder)
    history = [items(record.history.item) for record in found if record.WhichOneof("record_type") == "history"]
    steps = [step for step in history if "utterance/batch" in step]
    for step, row in zip(steps, rows, strict=True):
        numbers = {key: value for key, value in row.items() if isinstance(value, int | float)}
        assert {key: value for key, value in step.items() if key.startswith("utterance/")} == {
            f"utterance/{key}": value for key, value in numbers.items()
        }

    staged = artifacts(found)
    assert json.loads(staged["result"]["result.json"].read_text()) == json.loads((folder / "result.json").read_text())
    table = json.loads(staged["run_table"]["utterances.table.json"].read_text())
    shown = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["text"] for row in shown] == [row["text"] for row in rows]
    assert [row["audio"] is None for row in shown] == [row["error"] is not None for row in rows]
    assert [row["timeline"] is not None for row in shown] == [True, True, False, False, False, False]
    assert [row["batch_seconds"] for row in shown] == [row["batch_seconds"] for row in rows]


def test_logging_again_makes_another_complete_run(config, tmp_path: Path) -> None:
    result = run_once(config(**as_pcg(logger={"_target_": None})))
    assert not list(Path(result.folder).glob("wandb"))
    log_again(tmp_path / "outputs" / "tiny", LOGGER)
    assert items(records(Path(result.folder))[1].run.config.update)["seed"] == 0
