from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pcg.runner import report
from pcg.runner.run import run_once
from pcg.runner.store import read_study


def pcg_at(theta: float) -> dict:
    groups = {"_target_": "pcg.groups.cosine.Cosine", "theta": theta, "source": "target_input"}
    return {"_target_": "pcg.acceptance.pcg.PCG", "groups": groups}


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    run_once(config(grouping=pcg_at(0.5)))
    run_once(config(grouping=pcg_at(0.0)))
    run_once(config())
    run_once(config(draft={}))
    return tmp_path / "outputs" / "tiny"


def test_table_plots_and_paths(study: Path, capsys) -> None:
    folder = report.show(study)
    shown = capsys.readouterr().out
    lines = (folder / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "target alone", "exact", "pcg theta=0.0", "pcg theta=0.5",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "method", "alpha", "tau", "tokens/s", "speed-up", "ideal", "RTF", "WER %", "MOS",
    ]  # fmt: skip
    for plot in ("alpha_theta", "speedup_theta", "wer_speedup", "accepted_position", "time_parts", "tau_ideal"):
        assert (folder / f"{plot}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (folder / f"{plot}.svg").read_text()
        assert f"{plot}.png" in shown
    for result in read_study(study):
        assert f"{result.folder}/result.json" in shown
        assert f"{result.folder}/audio/*.wav" in shown


def test_csv_holds_the_figures_of_result_json(study: Path) -> None:
    folder = report.show(study)
    rows = {row["run_id"]: row for row in csv.DictReader((folder / "table.csv").read_text().splitlines())}
    for result in read_study(study):
        row, values = rows[result.values["run_id"]], result.values
        assert float(row["acceptance.tau"]) == values["acceptance"]["tau"]
        assert float(row["quality.wer_ci95.high"]) == values["quality"]["wer_ci95"][1]
        assert row["acceptance.alpha"] == (
            "" if values["acceptance"]["alpha"] is None else str(values["acceptance"]["alpha"])
        )


def test_runs_that_differ_elsewhere_are_told_apart(config, tmp_path: Path) -> None:
    run_once(config(**{"decoding.gamma": 2}))
    run_once(config())
    run_once(config(draft={}))
    names = report.labels(report.in_order(read_study(tmp_path / "outputs" / "tiny")))
    assert sorted(names) == ["exact gamma=2", "exact gamma=3", "target alone"]


def test_a_study_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no finished run"):
        report.show(tmp_path / "nothing")
