from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from pcg.report import predicted, report
from pcg.report.names import in_order, labels
from pcg.results import predictions
from pcg.results.store import read_study
from pcg.runner.run import run_once
from pcg.studies import offline, plots
from tests.studies.test_offline import PCG, RULES

ONLINE_PCG = {key: PCG[key] for key in ("_target_", "groups")}


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch) -> None:
    monkeypatch.setattr(plots, "draw_offline", lambda points, folder: [])
    monkeypatch.setattr(report, "draw_plots", lambda results, labels, folder: [])


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    run_once(config())
    run_once(config(grouping=ONLINE_PCG))
    run_once(config(draft={}))
    predict(config)
    return tmp_path / "outputs" / "tiny"


def predict(config: Any, **changes: Any) -> Path:
    run = config(**changes)
    kept = {key: run[key] for key in run if key not in ("grouping", "metrics", "logger", "max_failures")}
    rules = {name: RULES[name] for name in ("exact", "pcg")}
    return offline.study({**kept, "rules": rules, "grids": {}, "only": None, "chunk": 64, "gammas": 4})


def cells(study: Path) -> dict[str, dict[str, str]]:
    results = in_order(read_study(study))
    header, rows = predicted.table(study, labels(results), results)
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def test_prediction_measurement_and_difference(study: Path) -> None:
    found = cells(study)
    assert list(found) == ["exact", "pcg theta=0.4"]  # the target alone has no prediction
    rows = pyarrow.parquet.read_table(study / predictions.FOLDER / predictions.ROWS).to_pylist()
    for result in read_study(study):
        values = result.values
        if values["label"] not in found:
            continue
        own = [row for row in rows if row["point"] == values["method"]]
        sums = {key: sum(row[key] for row in own) for key in ("accepted_3", "tested_3", "positions", "rounds_3")}
        shown = found[values["label"]]
        alpha, tau = sums["accepted_3"] / sums["tested_3"], sums["positions"] / sums["rounds_3"]
        assert shown["alpha offline"] == f"{alpha:.3f}"
        assert shown["alpha"] == f"{values['acceptance']['alpha']:.3f}"
        assert shown["alpha difference"].startswith(f"{values['acceptance']['alpha'] - alpha:+.3f} [")
        assert shown["tau offline"] == f"{tau:.3f}"
        assert shown["tau difference"].startswith(f"{values['acceptance']['tau'] - tau:+.3f} [")
        ideal = values["speed"]["ideal_speedup"] * tau / values["acceptance"]["tau"]
        assert shown["speed-up offline"] == f"{ideal:.3f}"
        assert shown["speed-up"] == f"{values['speed']['speedup']:.3f}"
        assert float(shown["speed-up difference"].split()[0]) == pytest.approx(
            values["speed"]["speedup"] - ideal, abs=2e-3
        )


def test_a_certain_draft_is_predicted_exactly(config, tmp_path: Path) -> None:
    run_once(config(**{"draft.noise": 0.0}))
    predict(config, **{"draft.noise": 0.0})
    shown = cells(tmp_path / "outputs" / "tiny")["exact"]
    assert shown["alpha offline"] == shown["alpha"] == "1.000"
    assert shown["alpha difference"] == "+0.000 [+0.000, +0.000]"


@pytest.mark.parametrize("change", [{"decoding.temperature": 0.7}, {"draft.noise": 0.1}, {"target.seed": 3}])
def test_only_the_same_rule_of_the_same_pair_is_compared(study: Path, config, change) -> None:
    before = cells(study)
    run_once(config(**change))
    assert list(cells(study).values()) == list(before.values())


def test_only_shared_utterances_are_compared(config, tmp_path: Path) -> None:
    result = run_once(config())
    predict(config, **{"dataset.limit": 2})
    shown = cells(tmp_path / "outputs" / "tiny")["exact"]
    rows = pyarrow.parquet.read_table(Path(result.folder) / "utterances.parquet").to_pylist()[:2]
    assert shown["alpha"] == f"{sum(r['accepted'] for r in rows) / sum(r['tested'] for r in rows):.3f}"


def test_the_report_shows_it(study: Path, capsys) -> None:
    folder = report.show(study)
    assert "offline_online.md" in capsys.readouterr().out
    assert "| exact |" in (folder / "offline_online.md").read_text()


def test_without_an_offline_study_there_is_no_table(config, tmp_path: Path) -> None:
    run_once(config())
    folder = report.show(tmp_path / "outputs" / "tiny")
    assert not (folder / "offline_online.md").exists()
