"""What every table shares: cells with intervals, Markdown, CSV."""

from __future__ import annotations

import pytest

from pcg.report import tables


@pytest.mark.parametrize(
    ("form", "value", "ci95", "shown"),
    [
        ("{:.3f}", 0.4412, (0.4279, 0.4533), "0.441 [0.428, 0.453]"),
        ("{:.1%}", 0.183, [0.143, 0.226], "18.3 [14.3, 22.6]"),
        ("{:+.2f}", -0.5, None, "-0.50"),
        ("{:.2f}", None, None, "-"),
    ],
)
def test_a_figure_with_its_interval(form: str, value: float | None, ci95, shown: str) -> None:
    assert tables.figure(form, value, ci95) == shown


def test_rows_of_different_keys_share_one_header() -> None:
    assert tables.comma_separated([{"a": 1, "b": "x, y"}, {"c": None, "a": 2}]) == 'a,b,c\n1,"x, y",\n2,,\n'


def test_markdown() -> None:
    assert (
        tables.markdown(["method", "tau"], [["exact", "1.71"]]) == "| method | tau |\n| --- | --- |\n| exact | 1.71 |\n"
    )
