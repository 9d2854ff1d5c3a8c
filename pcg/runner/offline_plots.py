"""The plots of the offline study, each as PNG and SVG: alpha against theta, and the acceptance–distortion frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

from pcg.runner.identity import theta
from pcg.runner.plots import axes_of, save

Points = Sequence[Mapping[str, Any]]
_MARKERS = "osD^v<>PX*hpd"


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
            axes.axhline(points[0]["alpha"], label=curve, color=style["color"], linestyle="--", linewidth=0.9)
    axes.legend(fontsize=8)
    return figure


def _frontier(curves: Mapping[str, Points]) -> Figure | None:
    """Up and to the left is better. A law's distance from the target is read along x, what it buys along y."""
    figure, axes = axes_of("total variation between the rule's law and the target", "expected alpha")
    for curve, points in curves.items():
        placed = sorted((point["tv"], point["alpha"]) for point in points if point["tv"] is not None)
        if placed:
            axes.plot(*zip(*placed, strict=True), label=curve, **_style(curves, curve))
    axes.set_xlim(left=-0.01)
    axes.legend(fontsize=7, ncols=2)
    return figure


def _theta(point: Mapping[str, Any]) -> float | None:
    return theta({"grouping": point["grouping"]})


def _style(curves: Mapping[str, Points], curve: str) -> dict[str, Any]:
    index = list(curves).index(curve)
    control = "like" in (curves[curve][0]["grouping"].get("groups") or {})  # random groups like those of a builder
    return {
        "color": colormaps["tab20"](index % 20),
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4,
        "linestyle": ":" if control else "-",
    }
