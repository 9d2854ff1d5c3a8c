"""The plots of the offline study, each as PNG and SVG: alpha against theta, and the acceptance–distortion frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, pyplot
from matplotlib.figure import Figure

from pcg.config.identity import theta
from pcg.report.plots import axes_of, save

Points = Sequence[Mapping[str, Any]]
_MARKERS = "osD^v<>PX*hpd"
_COLORS = [*map(colormaps["tab10"], range(10)), *map(colormaps["tab20"], range(1, 20, 2))]  # dark ones first


def draw(points: Points, folder: Path) -> list[Path]:
    """The PNG files of what could be drawn; a plot without a curve is left out.

    Args:
        points: as in offline.json.
    """
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        curves.setdefault(point["curve"], []).append(point)
    drawn = [("alpha_theta", _against_theta(curves)), ("frontier", _frontier(curves))]
    return [save(figure, folder / name) for name, figure in drawn if figure is not None]


def _against_theta(curves: Mapping[str, Points]) -> Figure | None:
    """A curve for rules with a grid over theta (the control dashed), a level for those of one point without groups."""
    swept = {curve: points for curve, points in curves.items() if len(points) > 1 and _theta(points[0]) is not None}
    if not swept:
        return None
    figure, axes = axes_of("theta (cosine above which tokens share a group)", "expected alpha")
    for curve, points in curves.items():
        style = _style(curves, curve)
        if curve in swept:
            points = sorted(points, key=lambda point: _theta(point) or 0.0)
            heights = [point["alpha"] for point in points]
            low, high = zip(*(point["alpha_ci95"] or (point["alpha"],) * 2 for point in points), strict=True)
            places: list[Any] = [_theta(point) for point in points]
            axes.plot(places, heights, label=curve, **style)
            axes.fill_between(places, low, high, color=style["color"], alpha=0.12, linewidth=0)
        elif len(points) == 1 and points[0]["groups"] is None:
            axes.axhline(
                points[0]["alpha"],
                label=curve,
                color=style["color"],
                linestyle="--",
                linewidth=0.9,
                zorder=style["zorder"],
            )
    axes.legend(fontsize=8)
    return figure


def _frontier(curves: Mapping[str, Points]) -> Figure:
    """Up and to the left is better: what a rule's distance from the target buys, by two distances."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    for axes, distance, words in zip(panels, ("tv", "kl"), ("total variation", "KL in nats"), strict=True):
        axes.set(xlabel=f"{words}, law of the rule from the target")
        axes.grid(alpha=0.3)
        for curve, points in curves.items():
            placed = [(point[distance], point["alpha"]) for point in points if point[distance] is not None]
            if placed:
                axes.plot(*zip(*placed, strict=True), label=curve, **_style(curves, curve))
    panels[0].set(ylabel="expected alpha")
    panels[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _theta(point: Mapping[str, Any]) -> float | None:
    return theta({"grouping": point["grouping"]})


def _style(curves: Mapping[str, Points], curve: str) -> dict[str, Any]:
    index = list(curves).index(curve)
    control = "like" in (curves[curve][0]["grouping"].get("groups") or {})  # random groups like those of a builder
    return {
        "color": _COLORS[index % len(_COLORS)],
        "zorder": 3 - index / 100,  # where curves fall together the first is seen
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4,
        "linestyle": ":" if control else "-",
        "linewidth": 1.2,
    }
