"""A metric says what its figures are, and everything that shows them reads it there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcg.report import columns, page, report
from pcg.report.names import in_order, labels
from pcg.results.figures import of_earlier
from pcg.results.store import one_line, read_study
from pcg.runner.run import run_once
from pcg.types import Figure, Result

METRICS = {"roughness": {"_target_": "pcg.tiny.Roughness"}}


@pytest.fixture
def runs(config, tmp_path: Path) -> list[Result]:
    """Two methods; the first is clearly the rougher."""
    run_once(config(metrics=METRICS))
    run_once(config(metrics=METRICS, draft={}))
    found = in_order(read_study(tmp_path / "outputs" / "tiny"))
    for result, value in zip(found, (6.0, 3.0), strict=True):
        result.values["quality"].update(roughness=value, roughness_ci95=[value - 0.5, value + 0.5])
    return found


def test_of_a_new_metric_the_lower_is_marked_where_lower_is_better(runs) -> None:
    header, rows = columns.table(runs)
    assert header[-1] == "roughness dB"
    assert [row[-1] for row in rows] == ["6.00 [5.50, 6.50]", "3.00 [2.50, 3.50]"]
    assert columns.ranks(runs)[-1] == [0, 1]


def test_of_a_figure_without_a_direction_none_is_marked(runs) -> None:
    for run in runs:
        run.values["figures"]["roughness"]["better"] = None
    assert columns.ranks(runs)[-1] == [0, 0]


def test_table_line_and_page_have_its_name_unit_and_format(runs, tmp_path: Path) -> None:
    folder = report.show(tmp_path / "outputs" / "tiny")
    assert "roughness dB − target" in (folder / "table.md").read_text()
    assert "roughness dB (lower is better)" in (folder / "quality_speedup.svg").read_text()
    assert "roughness 6.00 dB" in one_line(runs[0])
    data = page.content(runs, labels(runs), folder)
    assert data["methods"][0]["facts"][-1] == "roughness 6.00 dB"
    assert data["figures"] == [{"key": "roughness", "name": "roughness"}]
    assert data["utterances"][0]["clips"][0]["figures"].keys() == {"roughness"}


def test_figures_of_results_that_kept_no_declaration() -> None:
    found = of_earlier(["wer", "wer_ci95", "baseline_wer", "cer_pocketsphinx", "wer_pocketsphinx", "mos", "somebodys"])
    assert found["wer"]["better"] == found["cer_pocketsphinx"]["better"] == "lower"
    assert found["wer_pocketsphinx"]["ratio"] == ("word_errors_pocketsphinx", "words_pocketsphinx")
    assert found["mos"]["better"] == "higher"
    assert found["somebodys"]["better"] is None
    assert found.keys() == {"wer", "cer_pocketsphinx", "wer_pocketsphinx", "mos", "somebodys"}


def test_a_figure_is_shown_in_its_unit() -> None:
    wer = Figure("WER", "%", ".1f", "lower")
    assert (wer.heading, wer.text(0.1092), wer.number(0.015, "+")) == ("WER %", "WER 10.9 %", "+1.5")
    assert Figure("tau", format=".2f").text(3.104) == "tau 3.10"
