"""Tables as text, whatever they hold: cells with intervals; on the screen, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.types import Figure

Rows = Sequence[Sequence[str]]
Ranks = Sequence[Sequence[int]]  # of each cell, in the shape of the rows: 1 best, 2 second best, 0 neither
_MARKDOWN_RANKS = ("{}", "**{}**", "*{}*")
_MARKUP = re.compile(r"[\\`*|<>~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|\](?=[(\[:])")
_LATEX_RANKS = ("{}", r"\textbf{{{}}}", r"\underline{{{}}}")
_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def figure(form: str, value: float | None, ci95: Sequence[float] | None = None) -> str:
    """``0.441 [0.428, 0.453]``; ``-`` where it was not measured.

    Args:
        form: of the value and of both ends, as for ``str.format``; the column's heading shows a per cent sign.
    """
    numbers = () if value is None else (value, *(ci95 or ()))
    return _with_interval([form.format(number).rstrip("%") for number in numbers])


def cell(of: Figure, value: float | None, ci95: Sequence[float] | None = None, sign: str = "") -> str:
    """A figure in its unit, which the column's heading shows: ``12.0 [10.1, 14.2]``; ``-`` where not measured."""
    return _with_interval([] if value is None else [of.number(number, sign) for number in (value, *(ci95 or ()))])


def _with_interval(numbers: Sequence[str]) -> str:
    if not numbers:
        return "-"
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]} [{', '.join(numbers[1:])}]"


def console(width: int) -> Console:
    """The terminal as wide as it is; a file or a pipe gets ``width`` columns."""
    return Console(width=None if Console().is_terminal else width, markup=False, emoji=False)


def rich_table(title: str, header: Sequence[str], rows: Rows) -> Table:
    """Numbers are right-aligned; the column ``method`` is never broken."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(header: Sequence[str], rows: Rows, ranks: Ranks = ()) -> str:
    """A table with the best in bold and the second best in italics; signs of Markdown in cells are escaped."""
    body = [
        [_MARKDOWN_RANKS[rank].format(_escaped(text)) for text, rank in zip(row, ranked, strict=True)]
        for row, ranked in zip(rows, ranks or [[0] * len(header)] * len(rows), strict=True)
    ]
    lines = [[_escaped(name) for name in header], ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(text: str) -> str:
    """With a backslash before signs that Markdown would read, but not inside words and figures."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def latex(header: Sequence[str], rows: Rows, ranks: Ranks = ()) -> str:
    """A ``tabular`` (package booktabs) to be \\input into a paper: intervals small, the best bold, the second best
    underlined."""
    body = [
        " & ".join(_latex_cell(text, rank) for text, rank in zip(row, ranked, strict=True))
        for row, ranked in zip(rows, ranks or [[0] * len(header)] * len(rows), strict=True)
    ]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex_escaped, header)) + r" \\",
        r"\midrule",
        *(f"{line} \\\\" for line in body),
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ]
    return "\n".join(lines)


def latex_escaped(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex_cell(text: str, rank: int) -> str:
    """A figure with the interval that may follow it in brackets."""
    value, interval = re.fullmatch(r"(.*?)( \[[-+\d., ]*\])?", text, re.DOTALL).groups()  # type: ignore[union-attr]
    ranked = _LATEX_RANKS[rank].format("--" if value == "-" else latex_escaped(value))
    return ranked + (f" {{\\scriptsize {latex_escaped(interval.strip())}}}" if interval else "")


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with every key of any row, in their order; empty where a row lacks the key."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
