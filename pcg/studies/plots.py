"""The plots of the offline and the substitution study, each as PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcg.config.identity import theta
from pcg.report.plots import axes_of, save

Points = Sequence[Mapping[str, Any]]  # of offline.json, or the conditions of substitute.json
_MARKERS = "osD^v<>PX*hpd"
# Okabe and Ito's palette, safe for the colour-blind. Further curves repeat it with other dashes and markers.
_COLORS = ("#000000", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.")
_DISTANCES = {"sound": "sound, dB", "tv": "total variation", "kl": "KL, nats"}
_LOSSLESS = 1e-5  # total variation of a rule that keeps the target's law, but for rounding


def draw_offline(points: Points, folder: Path) -> list[Path]:
    """Draw alpha against theta and the acceptance-distortion frontier.

    Returns:
        The PNG files; a plot without a curve is left out.
    """
    curves = _curves(points)
    drawn = [("alpha_theta", _alpha_against_theta(curves)), ("frontier", _frontier(curves))]
    return [save(figure, folder / name) for name, figure in drawn if figure is not None]


def draw_substitution(conditions: Points, folder: Path) -> list[Path]:
    """Draw what swapping changes in each figure against theta; returns the PNG file, none where there is no theta."""
    figures = figures_of(conditions)
    curves = _curves([row for row in conditions if row["grouping"] is not None and theta(row) is not None])
    if not curves or not figures:
        return []
    columns = min(2, len(figures))
    rows = -(-len(figures) // columns)
    figure, grid = pyplot.subplots(
        rows, columns, figsize=(4.6 * columns, 3.2 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat[len(figures) :]:
        axes.remove()
    for name, axes in zip(figures, grid.flat, strict=False):
        _changes(axes, name, curves)
    grid[0, 0].legend(fontsize=8)
    return [save(figure, folder / "change_theta")]


def figures_of(conditions: Points) -> list[str]:
    """Names of the figures that the substitution study has measured."""
    return [key.removesuffix("_change") for key in conditions[0] if key.endswith("_change")]


def _curves(points: Points) -> dict[str, Points]:
    """The points of each curve, by increasing theta where they have one."""
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        curves.setdefault(point["curve"], []).append(point)
    return {name: sorted(own, key=lambda point: theta(point) or 0.0) for name, own in curves.items()}


def _is_control(point: Mapping[str, Any]) -> bool:
    """Whether its groups are random ones, of the sizes of another builder's; such a curve is dotted."""
    return "like" in (point["grouping"].get("groups") or {})


def _alpha_against_theta(curves: Mapping[str, Points]) -> Figure | None:
    """A curve for each rule with a grid over theta, a level for each of one point without groups."""
    swept = {curve: points for curve, points in curves.items() if len(points) > 1 and theta(points[0]) is not None}
    if not swept:
        return None
    figure, axes = axes_of("theta (cosine above which tokens share a group)", "expected alpha")
    for curve, points in curves.items():
        style = _style(curves, curve)
        if curve in swept:
            low, high = zip(*(point["alpha_ci95"] or (point["alpha"],) * 2 for point in points), strict=True)
            thetas: list[Any] = [theta(point) for point in points]
            axes.plot(thetas, [point["alpha"] for point in points], label=curve, **style)
            axes.fill_between(thetas, low, high, color=style["color"], alpha=0.12, linewidth=0)
        elif len(points) == 1 and points[0]["groups"] is None:
            level = {key: style[key] for key in ("color", "zorder")}
            axes.axhline(points[0]["alpha"], label=curve, linestyle="--", linewidth=0.9, **level)
    axes.legend(fontsize=8)
    return figure


def _frontier(curves: Mapping[str, Points]) -> Figure:
    """A panel a distance: alpha against the distance of the rule's law from the target. Up and to the left is better.

    The vertical axis begins at the lowest alpha of a lossless rule, the horizontal one ends where most points lie.
    """
    points = [point for curve in curves.values() for point in curve]
    shown = [distance for distance in _DISTANCES if any(point.get(distance) is not None for point in points)]
    figure, panels = pyplot.subplots(
        1, len(shown), figsize=(3.6 * len(shown) + 1.6, 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, distance in zip(panels[0], shown, strict=True):
        axes.set(xlabel=f"{_DISTANCES[distance]}, law of the rule from the target")
        axes.grid(alpha=0.3)
        for curve, own in curves.items():
            placed = sorted((point["alpha"], point[distance]) for point in own if point.get(distance) is not None)
            if placed:
                alphas, distances = zip(*placed, strict=True)
                axes.plot(distances, alphas, label=curve, **_style(curves, curve))
        reach = sorted(point[distance] for point in points if point.get(distance) is not None)
        most = reach[int(0.9 * (len(reach) - 1))]
        axes.set_xlim(-0.02 * most, 1.05 * most or 1)
    lossless = [point["alpha"] for point in points if point.get("tv") is not None and point["tv"] < _LOSSLESS]
    panels[0, 0].set(ylabel="expected alpha", ylim=(min(lossless) - 0.02 if lossless else None, 1.0))
    panels[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _style(curves: Mapping[str, Points], curve: str) -> dict[str, Any]:
    index = list(curves).index(curve)
    return {
        "color": _COLORS[index % len(_COLORS)],
        "zorder": 3 - index / 100,  # where curves coincide the first is on top
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 5,
        "linestyle": ":" if _is_control(curves[curve][0]) else _DASHES[index // len(_COLORS) % len(_DASHES)],
        "linewidth": 1.4,
    }


def _changes(axes: Axes, name: str, curves: Mapping[str, Points]) -> None:
    axes.set(xlabel="theta", ylabel=f"change of {name}")
    axes.grid(alpha=0.3)
    axes.axhline(0, color="black", linewidth=0.8)
    for curve, points in curves.items():
        rows = [row for row in points if row[f"{name}_change"] is not None]
        heights = [row[f"{name}_change"] for row in rows]
        spans = [row[f"{name}_change_ci95"] or (height, height) for row, height in zip(rows, heights, strict=True)]
        below = [max(0.0, height - low) for height, (low, _) in zip(heights, spans, strict=True)]
        above = [max(0.0, high - height) for height, (_, high) in zip(heights, spans, strict=True)]
        thetas: list[Any] = [theta(row) for row in rows]
        dashes = ":" if _is_control(points[0]) else "-"
        axes.errorbar(thetas, heights, [below, above], label=curve, capsize=3, marker="o", linestyle=dashes)
