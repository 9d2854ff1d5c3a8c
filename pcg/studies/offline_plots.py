"""The plots of the offline study, each as PNG and SVG: alpha against theta, and the acceptance–distortion frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.figure import Figure

from pcg.config.identity import theta
from pcg.report.plots import axes_of, save

Points = Sequence[Mapping[str, Any]]
_MARKERS = "osD^v<>PX*hpd"
# Okabe and Ito's palette, safe for the colour-blind; curves beyond it come again in it, in other dashes and markers.
_COLORS = ("#000000", "#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.")
_DISTANCES = {"sound": "sound, dB", "tv": "total variation", "kl": "KL, nats"}
_LOSSLESS = 1e-5  # total variation of a rule that keeps the target's law, but for rounding


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
    """A curve for rules with a grid over theta, a level for those of one point without groups."""
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
    """Up and to the left is better: what a rule's distance from the target buys, a panel a distance.

    Shown is from the alpha of the rule that keeps least without straying, and as far as most points lie.
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
                heights, places = zip(*placed, strict=True)
                axes.plot(places, heights, label=curve, **_style(curves, curve))
        reach = sorted(point[distance] for point in points if point.get(distance) is not None)
        axes.set_xlim(-0.02 * reach[int(0.9 * (len(reach) - 1))], 1.05 * reach[int(0.9 * (len(reach) - 1))] or 1)
    strict = [point["alpha"] for point in points if point.get("tv") is not None and point["tv"] < _LOSSLESS]
    panels[0, 0].set(ylabel="expected alpha", ylim=(min(strict) - 0.02 if strict else None, 1.0))
    panels[0, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
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
        "markersize": 5,
        "linestyle": ":" if control else _DASHES[index // len(_COLORS) % len(_DASHES)],
        "linewidth": 1.4,
    }
