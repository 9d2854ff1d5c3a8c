"""Tables as text, whatever they hold: cells with intervals, on the screen, as Markdown, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def figure(form: str, value: float | None, ci95: Sequence[float] | None = None) -> str:
    """``0.441 [0.428, 0.453]``; ``-`` where it was not measured.

    Args:
        form: of the value and of both ends, as for ``str.format``; a per cent sign is the column's to show.
    """
    if value is None:
        return "-"
    shown, *ends = (form.format(number).rstrip("%") for number in (value, *(ci95 or ())))
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


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV with every key of any row, in the order in which they come; what a row has not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
