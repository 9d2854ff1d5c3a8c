"""A study's table as it is printed: at most 100 columns, one line a run; table.md has all of it.

A figure stands with its half-width, ``10.9 ±2.1``, if there is room. In each column the best is marked ``*``, and ``~``
marks those that paired differences cannot tell from it. A difference to the target alone is in brackets if it is
smaller than could have been seen. A terminal shows the same in green, bold and grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.text import Text

from pcg.report import columns, compare
from pcg.report.names import labels
from pcg.report.seeds import Method
from pcg.results.figures import measured

WIDTH = 100
LEGEND = (
    "* best  ~ not told from the best  Δ less the target alone's  ( ) smaller than could have been seen\n"
    "±: half of the 95 % interval. {}Intervals and every two methods are in table.md."
)
_NAME = 24  # a method's name keeps at least this many characters
_STYLES = {"*": "bold green", "~": "bold", "": "", "(": "grey50"}
# Columns that are dropped first where there is no room, and those that lose their half-widths first.
_DROPPED_FIRST = ("speed.rtf", "speed.ideal_speedup", "speed.tokens_per_second", "distortion.tv")
_PLAIN_FIRST = ("acceptance.tau", "acceptance.alpha")


@dataclass(frozen=True)
class Column:
    """One printed column.

    Attributes:
        path: of the figure in result.json.
        values, widths, marks: of each run: the figure, half of its interval (empty: not shown) and its mark.
    """

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


def _cell(value: str, width: str, mark: str) -> str:
    return f"({value})" if mark == "(" else f"{value}{width and f' ±{width}'}{mark or ' '}"


def lines(methods: Sequence[Method], against_target: Sequence[compare.Estimates]) -> tuple[list[Text], list[str]]:
    """Heading and one line a run, and the headings of the columns that had no room.

    Args:
        against_target: differences of each run's quality to the target alone.
    """
    names = labels(methods)
    shown = [*_seeds(methods), *_ordered(_figures(methods), _differences(methods, against_target))]
    shown, dropped = _fitted(shown, max([_NAME, *map(len, names)]))
    room = WIDTH - sum(column.size + 2 for column in shown)
    width = min(room, max(len("method"), *map(len, names)))
    heading = "method".ljust(width) + "".join(f"  {column.heading.rjust(column.size)}" for column in shown)
    body = [_line(_cut(name, width).ljust(width), shown, row) for row, name in enumerate(names)]
    return [Text(heading.rstrip(), "bold"), *body], dropped


def _line(name: str, shown: Sequence[Column], row: int) -> Text:
    line = Text(name)
    for column in shown:
        line.append("  " + column.cells[row].rjust(column.size), _STYLES[column.marks[row]])
    line.rstrip()
    return line


def _cut(name: str, width: int) -> str:
    """A name without its middle: its end, where the settings stand, tells methods apart."""
    if len(name) <= width:
        return name
    head = (width - 1) // 3
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def _fitted(shown: Sequence[Column], name: int) -> tuple[list[Column], list[str]]:
    """The columns that fit beside a name of this length, and the headings of those that were dropped.

    Columns of ``_DROPPED_FIRST`` go, then half-widths, then columns from the right, each only while there is no room.
    """
    kept, dropped = list(shown), []

    def too_wide() -> bool:
        return sum(column.size + 2 for column in kept) + name > WIDTH

    for path in _DROPPED_FIRST:
        if too_wide():
            dropped += [column for column in kept if column.path == path]
            kept = [column for column in kept if column.path != path]
    for index in sorted(range(len(kept)), key=lambda index: (kept[index].path not in _PLAIN_FIRST, -index)):
        if too_wide():
            kept[index] = replace(kept[index], widths=[""] * len(kept[index].widths))
    name = min(name, _NAME)
    while too_wide() and len(kept) > 1:
        dropped.append(kept.pop())
    return kept, [column.heading.strip() for column in dropped]


def _ordered(figures: Sequence[Column], differences: Sequence[Column]) -> list[Column]:
    """What a reader looks for first comes first; the first figure of quality has its difference beside it."""
    first = [column for column in figures if column.path.startswith("quality.")][:1]
    speed = [column for column in figures if not column.path.startswith(("quality.", *_DROPPED_FIRST))]
    rest = [column for column in figures if column not in first + speed]
    return [*speed, *first, *differences[:1], *rest, *differences[1:]]


def _seeds(methods: Sequence[Method]) -> list[Column]:
    """The number of seeds of each row, if one has several."""
    counts = [str(len(method.seeds)) for method in methods]
    blank = [""] * len(counts)
    return [Column("seeds", "seeds ", counts, blank, blank)] if set(counts) != {"1"} else []


def _figures(methods: Sequence[Method]) -> list[Column]:
    """Every figure of the table that some run has."""
    return [
        Column(
            column.path,
            f"{column.figure.heading} ",
            ["-" if value is None else column.figure.number(value) for value in column.values],
            ["" if span is None else column.figure.number((span[1] - span[0]) / 2) for span in column.intervals],
            _marks(methods, column),
        )
        for column in columns.columns_of(methods)
        if any(value is not None for value in column.values)
    ]


def _marks(methods: Sequence[Method], column: columns.Column) -> list[str]:
    """``*`` for the best of those with an interval, ``~`` for each whose difference to it covers none."""
    known = [
        (value, row)
        for row, (value, interval) in enumerate(zip(column.values, column.intervals, strict=True))
        if value is not None and interval is not None
    ]
    marks = [""] * len(methods)
    if column.figure.better is None or len(known) < 2:
        return marks
    _, best = (max if column.figure.better == "higher" else min)(known)
    for _, row in known:
        marks[row] = "*" if row == best else _rival(methods[row], methods[best], column.path.partition(".")[2])
    return marks


def _rival(method: Method, best: Method, key: str) -> str:
    estimate = compare.difference(method, best, key)
    none = 1.0 if key == "speedup" else 0.0
    covered = estimate is not None and estimate.ci95 is not None and estimate.ci95[0] <= none <= estimate.ci95[1]
    return "~" if covered else ""


def _differences(methods: Sequence[Method], against_target: Sequence[compare.Estimates]) -> list[Column]:
    """Each figure of quality minus that of the target alone on the same prompts."""
    shown = []
    for key, figure in measured([method.values for method in methods]).items():
        estimates = [differences.get(key) for differences in against_target]
        values = [None if estimate is None else estimate.value for estimate in estimates]
        texts = ["-" if value is None else figure.number(value, "+") for value in values]
        marks = ["(" if _unseen(estimate) else "" for estimate in estimates]
        if any(estimates):
            shown.append(Column(f"difference.{key}", f"Δ {figure.name} ", texts, [""] * len(texts), marks))
    return shown


def _unseen(estimate: compare.Estimate | None) -> bool:
    """Whether the difference is smaller than could have been seen."""
    if estimate is None or estimate.value is None or estimate.spread is None:
        return False
    return abs(estimate.value) < estimate.spread.detectable
