from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcg.report import compare, report, tables
from pcg.report.seeds import methods
from pcg.results.store import read_study, read_utterances
from pcg.runner.run import run_once
from tests.report.test_report import pcg_at


@pytest.mark.parametrize(
    ("spans", "higher", "marked"),
    [
        ([(1, 2, 3), (4, 5, 6), (7, 8, 9)], True, [0, 2, 1]),
        ([(1, 2, 3), (4, 5, 6), (7, 8, 9)], False, [1, 2, 0]),
        ([(1, 2, 3), (4, 5, 7.5), (7, 8, 9)], True, [0, 0, 0]),  # the best is not clear, so no second either
        ([(1, 2, 4.5), (4, 5, 6), (7, 8, 9)], True, [0, 0, 1]),
        ([(1, 2, 3), None, (7, 8, 9)], True, [0, 0, 1]),  # the second of two is the worst
        ([None, (7, 8, 9)], True, [0, 0]),
        ([(1, 2, 3), (4, 5, 6), (8, 8, 8)], True, [0, 0, 0]),  # no width: nothing is known of the best
        ([(1, 1, 1), (4, 5, 6), (7, 8, 9)], True, [0, 2, 1]),
    ],
)
def test_marks_only_where_intervals_part(spans, higher: bool, marked: list[int]) -> None:
    assert compare.ranks(spans, higher) == marked


@pytest.fixture
def runs(config, tmp_path: Path) -> dict[str, Any]:
    run_once(config(grouping=pcg_at(0.0)))
    run_once(config())
    run_once(config(**{"decoding.gamma": 2}))  # exact, but not the twin
    every = methods(read_study(tmp_path / "outputs" / "tiny"))
    found = {method.values["method"]: method for method in every if method.values["config"]["decoding"]["gamma"] == 3}
    return {**found, "all": every}


def test_differences_to_exact_by_hand(runs) -> None:
    results = runs["all"]
    assert compare.exact_twin(runs["pcg"], results).values["run_id"] == runs["exact"].values["run_id"]
    found = compare.against_exact(runs["pcg"], results)
    pcg, exact = runs["pcg"].values, runs["exact"].values
    for group, name in (("acceptance", "alpha"), ("acceptance", "tau"), ("quality", "wer"), ("quality", "mos")):
        assert found[name].value == pytest.approx(pcg[group][name] - exact[group][name])
        assert found[name].ci95[0] <= found[name].value <= found[name].ci95[1]
    assert found["speedup"].value == pytest.approx(pcg["speed"]["speedup"] / exact["speed"]["speedup"])
    assert compare.against_exact(runs["exact"], results) == {}
    assert compare.against_exact(runs["pcg"], [runs["pcg"]]) == {}


def test_differences_to_the_target_by_hand(runs) -> None:
    found, rows = compare.against_target(runs["pcg"]), read_utterances(Path(runs["pcg"].folder))
    words = sum(row["words"] for row in rows)
    more = sum(row["errors"] - row["baseline_errors"] for row in rows)
    assert found["wer"].value == pytest.approx(more / words)


def test_the_report_tells_the_differences(runs, tmp_path: Path) -> None:
    folder = report.show(tmp_path / "outputs" / "tiny")
    text = (folder / "table.md").read_text()
    assert "| method | alpha − exact | tau − exact |" in text
    assert "against_exact.alpha_ci95.low" in (folder / "table.csv").read_text().splitlines()[0]
    tex = (folder / "table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    assert r"WER \%" in tex


def test_latex_by_hand() -> None:
    rows = [["a_b", "1.0 [0.9, 1.1]"], ["50 %", "-"], ["c", "2"]]
    lines = tables.latex(["method", "x"], rows, [[0, 1], [0, 0], [0, 2]]).splitlines()
    assert lines[4:7] == [
        r"a\_b & \textbf{1.0} {\scriptsize [0.9, 1.1]} \\",
        r"50 \% & -- \\",
        r"c & \underline{2} \\",
    ]
