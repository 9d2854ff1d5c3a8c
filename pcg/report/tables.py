"""Tables as text, whatever they hold: cells with intervals, on the screen, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.types import Figure

_MARKS = ("{}", "**{}**", "*{}*")  # in Markdown: neither, best, second best
_MARKUP = re.compile(r"[\\`*|<>~$]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)|\](?=[(\[:])")


def figure(form: str, value: float | None, ci95: Sequence[float] | None = None) -> str:
    """``0.441 [0.428, 0.453]``; ``-`` where it was not measured.

    Args:
        form: of the value and of both ends, as for ``str.format``; a per cent sign is the column's to show.
    """
    if value is None:
        return "-"
    shown, *ends = (form.format(number).rstrip("%") for number in (value, *(ci95 or ())))
    return f"{shown} [{', '.join(ends)}]" if ends else shown


def cell(of: Figure, value: float | None, ci95: Sequence[float] | None = None, sign: str = "") -> str:
    """A figure in its unit, which the column's heading shows: ``12.0 [10.1, 14.2]``; ``-`` where not measured."""
    if value is None:
        return "-"
    shown, *ends = (of.number(number, sign) for number in (value, *(ci95 or ())))
    return f"{shown} [{', '.join(ends)}]" if ends else shown


def console(width: int) -> Console:
    """The terminal as wide as it is; a file or a pipe gets ``width`` columns."""
    return Console(width=None if Console().is_terminal else width, markup=False, emoji=False)


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Numbers to the right; the method's name is never broken."""
    shown = Table(title=title, title_justify="left")
    for name in header:
        shown.add_column(name, justify="left" if name == "method" else "right", no_wrap=name == "method")
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], ranks: Sequence[Sequence[int]] = ()) -> str:
    """A table in which the best is bold, the second best in italics, and no sign of a cell is taken for markup.

    Args:
        ranks: of each cell, in the shape of ``rows``: 1 best, 2 second, 0 neither; none where nothing is ranked.
    """
    shown = [
        [_MARKS[rank].format(_escaped(cell)) for cell, rank in zip(row, marked, strict=True)]
        for row, marked in zip(rows, ranks or [[0] * len(header)] * len(rows), strict=True)
    ]
    lines = [[_escaped(name) for name in header], ["---"] * len(header), *shown]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _escaped(cell: str) -> str:
    """Markdown's signs behind backslashes where they would mark something: none of those inside words and figures."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(cell.split()))


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with every key of any row, in the order in which they come; what a row has not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
