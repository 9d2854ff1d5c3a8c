"""The plot of the substitution study, as PNG and SVG: what swapping changes, against theta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes

from pcg.config.identity import theta
from pcg.report.plots import save

Conditions = Sequence[Mapping[str, Any]]


def figures_of(conditions: Conditions) -> list[str]:
    """Names of the figures that were measured."""
    return [key.removesuffix("_change") for key in conditions[0] if key.endswith("_change")]


def draw(conditions: Conditions, folder: Path) -> list[Path]:
    """The PNG file; none where no condition has a theta or nothing was measured.

    Args:
        conditions: as in substitute.json.
    """
    figures = figures_of(conditions)
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for row in conditions:
        if row["grouping"] is not None and theta(row) is not None:
            curves.setdefault(row["curve"], []).append(row)
    if not curves or not figures:
        return []
    columns = min(2, len(figures))
    figure, grid = pyplot.subplots(
        -(-len(figures) // columns), columns, figsize=(4.6 * columns, 3.2 * -(-len(figures) // columns)),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for axes in grid.flat[len(figures) :]:
        axes.remove()
    for name, axes in zip(figures, grid.flat, strict=False):
        _panel(axes, name, curves)
    grid[0, 0].legend(fontsize=8)
    return [save(figure, folder / "change_theta")]


def _panel(axes: Axes, name: str, curves: Mapping[str, Conditions]) -> None:
    axes.set(xlabel="theta", ylabel=f"change of {name}")
    axes.grid(alpha=0.3)
    axes.axhline(0, color="black", linewidth=0.8)
    for curve, rows in curves.items():
        rows = sorted((row for row in rows if row[f"{name}_change"] is not None), key=lambda row: theta(row) or 0.0)
        places: list[Any] = [theta(row) for row in rows]
        heights = [row[f"{name}_change"] for row in rows]
        spans = [row[f"{name}_change_ci95"] or (height, height) for row, height in zip(rows, heights, strict=True)]
        below = [max(0.0, height - low) for height, (low, _) in zip(heights, spans, strict=True)]
        above = [max(0.0, high - height) for height, (_, high) in zip(heights, spans, strict=True)]
        control = "like" in rows[0]["grouping"]["groups"] if rows else False
        axes.errorbar(
            places, heights, [below, above], label=curve, capsize=3, marker="o", linestyle=":" if control else "-"
        )
