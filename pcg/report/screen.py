"""A study's table as it is printed: at most 100 columns, one line a run; all of it is in table.md.

A figure stands with its half-width, ``10.9 ±2.1``, as far as there is room. In each column the best is marked ``*``,
and ``~`` those that could not be told from it, by paired differences. A difference to the target alone that is smaller
than could have been seen stands in brackets. A terminal shows the same in green, bold and grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from pcg.report import compare
from pcg.report.columns import figures_of
from pcg.report.names import labels
from pcg.report.seeds import Method
from pcg.results.figures import measured
from pcg.types import Figure

WIDTH = 100
LEGEND = (
    "* best  ~ not told from the best  Δ less the target alone's  ( ) smaller than could have been seen\n"
    "±: half of the 95 % interval. {}Intervals and every two methods are in table.md."
)
_NAME = 24  # what is left of a method's name at least
_STYLES = {"*": "bold green", "~": "bold", "": "", "(": "grey50", "-": "grey50"}
# Columns that go first where there is no room, and whose half-widths do; then the further right the sooner.
_FIRST_TO_GO = ("speed.rtf", "speed.ideal_speedup", "speed.tokens_per_second", "distortion.tv")
_PLAIN_FIRST = ("acceptance.tau", "acceptance.alpha")


@dataclass(frozen=True)
class Column:
    """One column: a heading, and of each run the figure, its half-width and its mark."""

    path: str
    heading: str
    values: Sequence[str]
    widths: Sequence[str]
    marks: Sequence[str]

    @property
    def cells(self) -> list[str]:
        return [_cell(*parts) for parts in zip(self.values, self.widths, self.marks, strict=True)]

    @property
    def size(self) -> int:
        return max(map(len, (self.heading.rstrip(), *self.cells)))

    @property
    def plain(self) -> Column:
        """Without half-widths."""
        return replace(self, widths=[""] * len(self.widths))


def _cell(value: str, width: str, mark: str) -> str:
    if mark == "(":
        return f"({value})"
    return f"{value}{width and f' ±{width}'}{mark if mark in ('*', '~') else ' '}"


def lines(results: Sequence[Method], against_target: Sequence[compare.Estimates]) -> tuple[list[Text], list[str]]:
    """Heading and one line a run, and the headings of columns that had no room.

    Args:
        against_target: differences of each run's quality to the target alone.
    """
    columns = [*_seeds(results), *_ordered(_figures(results), _differences(results, against_target))]
    names = labels(results)
    columns, left_out = _fitted(columns, max([_NAME, *map(len, names)]))
    room = WIDTH - sum(column.size + 2 for column in columns)
    width = min(room, max(len("method"), *map(len, names)))
    heading = "method".ljust(width) + "".join(f"  {column.heading.rjust(column.size)}" for column in columns)
    body = [_line(_cut(name, width).ljust(width), columns, row) for row, name in enumerate(names)]
    return [Text(heading.rstrip(), "bold"), *body], left_out


def _line(name: str, columns: Iterable[Column], row: int) -> Text:
    line = Text(name)
    for column in columns:
        cell = column.cells[row]
        line.append(" " * (2 + column.size - len(cell)))
        line.append(cell, _STYLES[column.marks[row]])
    line.rstrip()
    return line


def _cut(name: str, width: int) -> str:
    """Its end, where the settings stand, is what tells methods apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def _fitted(columns: Sequence[Column], name: int) -> tuple[list[Column], list[str]]:
    """Columns and half-widths go, one after the other, until a line has room for what is left and the name."""
    kept, gone = list(columns), []

    def too_wide() -> bool:
        return sum(column.size + 2 for column in kept) + name > WIDTH

    for path in _FIRST_TO_GO:
        if too_wide():
            gone += [column for column in kept if column.path == path]
            kept = [column for column in kept if column.path != path]
    for place in sorted(range(len(kept)), key=lambda place: (kept[place].path not in _PLAIN_FIRST, -place)):
        if too_wide():
            kept[place] = kept[place].plain
    name = min(name, _NAME)
    while too_wide() and len(kept) > 1:
        gone.append(kept.pop())
    return kept, [column.heading.strip() for column in gone]


def _ordered(figures: Sequence[Column], differences: Sequence[Column]) -> list[Column]:
    """From what a reader looks for first: the first figure of quality has its difference beside it."""
    first = [column for column in figures if column.path.startswith("quality.")][:1]
    speed = [column for column in figures if not column.path.startswith(("quality.", *_FIRST_TO_GO))]
    rest = [column for column in figures if column not in first + speed]
    return [*speed, *first, *differences[:1], *rest, *differences[1:]]


def _seeds(results: Sequence[Method]) -> list[Column]:
    """How many seeds a row is of, where one has several."""
    counts = [str(len(result.seeds)) for result in results]
    blank = [""] * len(counts)
    return [Column("seeds", "seeds ", counts, blank, blank)] if set(counts) != {"1"} else []


def _figures(results: Sequence[Method]) -> list[Column]:
    """Every figure of the table that some run has."""
    columns = []
    for path, figure in figures_of(results).items():
        group, key = path.split(".")
        values = [result.values[group].get(key) for result in results]
        spans = [result.values[group].get(f"{key}_ci95") for result in results]
        if any(value is not None for value in values):
            columns.append(
                Column(
                    path,
                    f"{figure.heading} ",
                    ["-" if value is None else figure.number(value) for value in values],
                    ["" if span is None else figure.number((span[1] - span[0]) / 2) for span in spans],
                    _marks(results, path, figure) if any(spans) else ["" for _ in values],
                )
            )
    return columns


def _marks(results: Sequence[Method], path: str, figure: Figure) -> list[str]:
    """``*`` for the best that has an interval, ``~`` for each run whose difference to it covers none."""
    group, key = path.split(".")
    known = [
        (result.values[group][key], place)
        for place, result in enumerate(results)
        if result.values[group].get(f"{key}_ci95") is not None
    ]
    marks = [""] * len(results)
    if figure.better is None or len(known) < 2:
        return marks
    _, best = (max if figure.better == "higher" else min)(known)
    for _, place in known:
        marks[place] = "*" if place == best else _rival(results[place], results[best], key)
    return marks


def _rival(method: Method, best: Method, key: str) -> str:
    found = compare.difference(method, best, key)
    none = 1.0 if key == "speedup" else 0.0
    return "" if found is None or found.ci95 is None or not found.ci95[0] <= none <= found.ci95[1] else "~"


def _differences(results: Sequence[Method], against_target: Sequence[compare.Estimates]) -> list[Column]:
    """Of each figure of quality, the run's less that of the target alone on the same prompts."""
    columns = []
    for key, figure in measured([result.values for result in results]).items():
        found = [differences.get(key) for differences in against_target]
        if any(found):
            columns.append(
                Column(
                    f"difference.{key}",
                    f"Δ {figure.name} ",
                    ["-" if one is None or one.value is None else figure.number(one.value, "+") for one in found],
                    [""] * len(found),
                    ["(" if _unseen(one) else "" for one in found],
                )
            )
    return columns


def _unseen(found: compare.Estimate | None) -> bool:
    return (
        found is not None
        and found.value is not None
        and found.spread is not None
        and abs(found.value) < found.spread.detectable
    )
