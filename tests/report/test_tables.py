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


def test_no_name_is_taken_for_markup() -> None:
    name = "my|model *a* _b_ a_b <i> `x` [l](u) &amp; $"
    shown = tables.markdown([name], [["0.4 [0.3, 0.5]"], ["x\ny"]], [[1], [2]])
    assert shown.splitlines() == [
        r"| my\|model \*a\* \_b\_ a_b \<i\> \`x\` [l\](u) \&amp; \$ |", "| --- |", "| **0.4 [0.3, 0.5]** |", "| *x y* |"
    ]  # fmt: skip
    assert tables.latex_escaped("a<b|c>_") == r"a\textless{}b\textbar{}c\textgreater{}\_"
    assert r"model [small]\_ &" in tables.latex(["method", "tau"], [["model [small]_", "1"]], [[0, 0]])


def test_markdown() -> None:
    assert (
        tables.markdown(["method", "tau"], [["exact", "1.71"]]) == "| method | tau |\n| --- | --- |\n| exact | 1.71 |\n"
    )
