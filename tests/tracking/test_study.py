"""A study as one run of W&B: offline, read back and held against the report's own files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from pcg.report import report, tracked
from pcg.runner.run import run_once
from tests.tracking.offline import artifacts, items, records, summary

LOGGER = {"_target_": "pcg.tracking.wandb.WandB", "mode": "offline", "audio": 2}


def told(folder: Path) -> dict[str, Any]:
    """Everything in the one step of a study's run."""
    found = [items(record.history.item) for record in records(folder) if record.WhichOneof("record_type") == "history"]
    return {key: value for step in found for key, value in step.items()}


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    for grouping in ({"_target_": "pcg.acceptance.exact.Exact"}, {"_target_": "pcg.acceptance.ssd.SSD", "beta": 0.4}):
        run_once(config(grouping=grouping, logger=None))
    folder = tmp_path / "outputs" / "tiny"
    report.show(folder)
    return folder


def test_a_study_is_one_run_with_all_of_its_report(study: Path) -> None:
    assert tracked.log_study(study, LOGGER)
    folder = study / "report"
    found = records(folder)
    run = next(record.run for record in found if record.run.run_id)
    assert (run.run_id, run.run_group, run.job_type, list(run.tags)) == ("tiny-study", "tiny", "study", ["study"])
    runs = [json.loads(path.read_text()) for path in study.glob("*/result.json")]
    assert items(run.config.update)["runs"] == {values["run_id"]: values["label"] for values in runs}
    assert summary(folder)["runs"] == 2

    logged, staged = told(folder), artifacts(found)
    assert {f"figures/{path.stem}._type" for path in folder.glob("*.png")} <= set(logged)
    assert logged["report._type"] == logged["listen._type"] == "html-file"
    tables = [json.loads(path.read_text()) for name, path in staged["run_table"].items() if "table.json" in name]
    assert ["method", "speed-up", "WER %"] in [table["columns"] for table in tables]
    with (folder / "table.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    (table,) = [table for table in tables if table["columns"] == header]
    assert [[same(cell) for cell in row] for row in table["data"]] == [[same(cell) for cell in row] for row in rows]
    kept = staged["study"]
    assert kept["table.csv"].read_text() == (folder / "table.csv").read_text()
    for values in runs:
        assert json.loads(kept[f"{values['run_id']}/result.json"].read_text()) == values
    artifact = next(record.artifact for record in found if record.artifact.type == "study")
    assert set(json.loads(artifact.metadata)["inputs"]) == {f"result-tiny-{values['run_id']}" for values in runs}


def same(cell: Any) -> Any:
    """A cell of a CSV file, or of W&B's table, as one value."""
    if cell in ("", None):
        return None
    try:
        return float(cell)
    except ValueError:
        return cell


def test_the_page_holds_its_audio(study: Path) -> None:
    page = study / "report" / "index.html"
    whole = tracked.with_audio(page)
    assert whole.count('"src":"data:audio/wav;base64,') == page.read_text().count('"src":"')
    assert '"src":"..' in tracked.with_audio(page, most=1)


def test_a_study_that_has_grown_is_the_same_run(study: Path, config) -> None:
    tracked.log_study(study, {**LOGGER, "artifacts": "none", "audio": 0})
    assert "study" not in artifacts(records(study / "report"))
    assert not any(key.startswith("listen") for key in told(study / "report"))
    run_once(config(grouping={"_target_": "pcg.acceptance.ssd.SSD", "beta": 0.2}, logger=None))
    report.show(study)
    tracked.log_study(study, LOGGER)
    assert summary(study / "report")["runs"] == 3
    run = next(record.run for record in records(study / "report") if record.run.run_id)
    assert run.run_id == "tiny-study"


def test_a_logger_that_fails_costs_nothing(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    (study / "report" / "table.csv").unlink()
    assert not tracked.log_study(study, LOGGER)
    assert "log it again with `pcg relog study=tiny`" in caplog.text
    assert tracked.log_study(study, None)
    assert tracked.log_study(study, {"_target_": "pcg.tiny.Recorder"})
