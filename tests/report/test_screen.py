"""The printed table: 100 columns, one line a run, the best and its rivals marked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcg.report import compare, report, screen
from pcg.report.names import in_order
from pcg.report.screen import Column
from pcg.report.seeds import Method, methods
from pcg.results.store import read_study
from pcg.runner.run import run_once
from tests.report.test_report import pcg_at


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    run_once(config(grouping=pcg_at(0.5)))
    run_once(config(grouping={"_target_": "pcg.acceptance.ssd.SSD", "beta": 0.4}))
    run_once(config())
    run_once(config(draft={}))
    return tmp_path / "outputs" / "tiny"


def shown(study: Path) -> tuple[list[Method], list[str], list[str]]:
    every = methods(in_order(read_study(study)))
    lines, left_out = screen.lines(every, [compare.against_target(method) for method in every])
    return every, [line.plain for line in lines], left_out


def test_one_line_a_run_of_100_columns_at_most_and_the_last_line_says_where_to_listen(study: Path, capsys) -> None:
    folder = report.show(study)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "tiny"
    table = printed[2:7]
    assert [line.split("  ")[0] for line in table] == [
        "method",
        "target alone",
        "exact",
        "pcg theta=0.5",
        "ssd beta=0.4",
    ]
    assert max(map(len, table)) <= 100
    assert "±" in table[2]
    assert printed[-1] == f"listen  {folder}/index.html"


def test_the_best_is_marked_with_those_that_are_not_told_from_it(study: Path) -> None:
    every, (heading, *lines), _ = shown(study)
    alphas = [method.values["acceptance"]["alpha"] for method in every]
    best = max(range(1, 4), key=lambda place: alphas[place])
    assert f"{alphas[best]:.3f}" in lines[best]
    cells = {column.path: column.cells for column in screen._figures(every)}
    assert [cell.endswith("*") for cell in cells["acceptance.alpha"]] == [place == best for place in range(4)]
    rival = next(place for place in range(1, 4) if place != best)
    found = compare.difference(every[rival], every[best], "alpha")
    covers = found.ci95[0] <= 0 <= found.ci95[1]
    assert cells["acceptance.alpha"][rival].endswith("~") == covers
    assert heading.split()[:3] == ["method", "alpha", "tau"]


def test_a_difference_that_could_not_have_been_seen_is_in_brackets(study: Path) -> None:
    every, _, _ = shown(study)
    found = [compare.against_target(method) for method in every]
    [column] = [column for column in screen._differences(every, found) if column.heading == "Δ WER "]
    for cell, told in zip(column.cells, (one.get("wer") for one in found), strict=True):
        unseen = told is not None and told.spread is not None and abs(told.value) < told.spread.detectable
        assert cell.startswith("(") == unseen


def column(path: str, size: int) -> Column:
    return Column(path, path[-8:], ["9" * size] * 2, ["5" * 6] * 2, [""] * 2)


def test_what_has_no_room_goes_in_order(study: Path) -> None:
    every = [column(path, 6) for path in ("acceptance.alpha", "acceptance.tau", "speed.speedup", "quality.wer")]
    kept, gone = screen._fitted([*every, column("speed.rtf", 6)], 24)
    assert gone == ["peed.rtf"]
    assert all(one.widths[0] for one in kept)
    kept, gone = screen._fitted(every, 38)
    assert [bool(one.widths[0]) for one in kept] == [True, False, True, True]
    assert gone == []
    kept, gone = screen._fitted([*every, column("quality.mos", 50)], 60)
    assert gone == ["lity.mos"]


def test_a_long_name_keeps_its_end() -> None:
    name = "somebodys_rule_of_a_long_name theta=0.123 gamma=5"
    assert len(screen._cut(name, 30)) == 30
    assert screen._cut(name, 30).endswith("gamma=5")
    assert screen._cut("exact", 30) == "exact"
