"""The plots of a study, each as PNG and SVG. A plot that would show fewer than two points is left out.

Each method has a colour (Okabe and Ito's palette, safe for the colour-blind) and each run of a method a marker, so that
colour alone never tells runs apart. Plots are as wide as a column of a paper.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcg.config.identity import theta
from pcg.results.figures import measured
from pcg.types import Figure as Shown  # matplotlib has figures too
from pcg.types import Result

Run = tuple[str, Result]  # its name, and the result
Style = Mapping[str, Any]  # colour and marker
_COLORS = {"target": "#000000", "exact": "#0072B2", "pcg": "#D55E00", "ssd": "#009E73", "coupling": "#CC79A7"}
_OTHERS = ("#E69F00", "#56B4E9", "#999999")
_MARKERS = "osD^vPX*<>"
_WIDTH = 4.8  # inches
_ALPHA = "alpha (share of tested tokens kept)"


def draw_plots(results: Sequence[Result], labels: Sequence[str], folder: Path) -> list[Path]:
    """Draw alpha and speed-up against theta, quality against speed-up and alpha, acceptance by position, where time
    goes, and the measured beside the ideal speed-up by tau.

    Args:
        labels: the name of each run.

    Returns:
        The PNG files.
    """
    runs = list(zip([label.replace("$", r"\$") for label in labels], results, strict=True))  # $ starts no formula
    drawn = [
        ("alpha_theta", _against_theta(runs, "acceptance", "alpha", _ALPHA)),
        ("speedup_theta", _against_theta(runs, "speed", "speedup", "speed-up over the target alone")),
        ("quality_speedup", _quality_against(runs, "speed", "speedup", "speed-up over the target alone")),
        ("quality_alpha", _quality_against(runs, "acceptance", "alpha", _ALPHA)),
        ("accepted_position", _accepted_by_position(runs)),
        ("time_parts", _where_time_goes(runs)),
        ("tau_ideal", _tau_against_ideal(runs)),
    ]
    return [save(figure, folder / name) for name, figure in drawn if figure is not None]


def _against_theta(runs: Sequence[Run], group: str, key: str, axis: str) -> Figure | None:
    """A line for the runs that differ only in theta, a level for each run without theta."""
    shown = [(name, run) for name, run in runs if run.values[group][key] is not None]
    lines: dict[str, list[Result]] = {}
    for name, run in shown:
        at = theta(run.values["config"])
        if at is not None:
            lines.setdefault(name.replace(f" theta={at:g}", ""), []).append(run)
    if max(map(len, lines.values()), default=0) < 2:
        return None
    levels = [
        (name, run)
        for name, run in shown
        if theta(run.values["config"]) is None and run.values["method"] != "target alone"
    ]
    styles = _styles([*lines, *(name for name, _ in levels)])
    figure, axes = axes_of("theta (cosine above which tokens share a group)", axis)
    for name, members in lines.items():
        members.sort(key=lambda run: theta(run.values["config"]) or 0.0)
        thetas = [theta(run.values["config"]) for run in members]
        _error_bars(axes, thetas, members, group, key, label=name, **styles[name])
    for (name, run), dashes in zip(levels, _dashes(len(levels)), strict=True):
        axes.axhline(run.values[group][key], linestyle=dashes, label=name, color=styles[name]["color"])
    if key == "speedup":
        axes.axhline(1.0, color="black", linewidth=0.8, label="target alone")
    _legend(figure)
    return figure


def _dashes(count: int) -> list[Any]:
    return [(0, (4 + 3 * (index % 4), 2)) for index in range(count)]


def _quality_against(runs: Sequence[Run], group: str, figure_of: str, axis: str) -> Figure | None:
    """A panel for each figure of quality; the runs that no other beats in both are joined (the Pareto front)."""
    with_figure = [(name, run) for name, run in runs if run.values[group][figure_of]]
    panels = [
        (key, shown, plotted)
        for key, shown in measured([run.values for _, run in with_figure]).items()
        if len(plotted := [(name, run) for name, run in with_figure if run.values["quality"].get(key) is not None]) > 1
    ]
    if not panels:
        return None
    figure, grid = pyplot.subplots(
        len(panels), 1, sharex=True, squeeze=False, layout="constrained", figsize=(_WIDTH, 0.5 + 2.1 * len(panels))
    )
    styles = _styles([name for name, _ in with_figure])
    for axes, (key, shown, plotted) in zip(grid[:, 0], panels, strict=True):
        axes.grid(alpha=0.3)
        axes.tick_params(labelsize=8)
        _quality_panel(axes, (key, shown), plotted, (group, figure_of), styles)
    grid[-1, 0].set_xlabel(axis, fontsize=9)
    _legend(figure)
    return figure


def _quality_panel(
    axes: Axes, shown: tuple[str, Shown], runs: Sequence[Run], against: tuple[str, str], styles: Mapping[str, Style]
) -> None:
    key, of = shown
    scale, direction = of.scale, f" ({of.better} is better)" if of.better else ""
    axes.set_ylabel(f"{of.heading}{direction}", fontsize=9)
    coordinates, (group, figure_of) = [], against
    for name, run in runs:
        abscissa, quality = run.values[group], run.values["quality"]
        x, y = abscissa[figure_of], quality[key] * scale
        axes.errorbar(
            x, y, _around(y, quality[f"{key}_ci95"], scale), _around(x, abscissa[f"{figure_of}_ci95"]),
            elinewidth=0.6, linestyle="none", label=name, **styles[name],
        )  # fmt: skip
        coordinates.append((x, y))
    if of.better is None:
        return
    front = pareto_front(coordinates, of.better == "higher")
    axes.plot(*zip(*front, strict=True), color="black", linewidth=0.8, linestyle=":", label="Pareto front", zorder=1)


def pareto_front(coordinates: Sequence[tuple[float, float]], higher_is_better: bool) -> list[tuple[float, float]]:
    """The pairs (speed-up or alpha, quality) that no other pair beats in both, from the left."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(coordinates, key=lambda pair: (-pair[0], -pair[1] if higher_is_better else pair[1])):
        if not front or (y > front[-1][1] if higher_is_better else y < front[-1][1]):
            front.append((x, y))
    return front[::-1]


def _accepted_by_position(runs: Sequence[Run]) -> Figure | None:
    """The share of rounds that accept the draft at each position of the block."""
    shown = [(name, run.values["counts"]) for name, run in runs if run.values["counts"]["accepted_by_position"]]
    if not shown:
        return None
    figure, axes = axes_of("position in the block", "share of rounds that accept it")
    styles = _styles([name for name, _ in shown])
    for name, counts in shown:
        shares = [accepted / counts["rounds"] for accepted in counts["accepted_by_position"]]
        axes.plot(range(1, len(shares) + 1), shares, label=name, **styles[name])
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def _where_time_goes(runs: Sequence[Run]) -> Figure | None:
    """Milliseconds per emitted token by part of the loop, without prefill, as in the speed-up."""
    shown = [
        (name, run.values)
        for name, run in runs
        if run.values["speed"]["seconds"]["target"] is not None and run.values["counts"]["emitted"]
    ]
    if not shown:
        return None
    figure, axes = axes_of("milliseconds per emitted token", "")
    figure.set_figheight(1.3 + 0.26 * len(shown))
    names, left = [name for name, _ in shown], [0.0] * len(shown)
    for part, color, hatch in (
        ("draft", "#56B4E9", ""), ("target", "#0072B2", ""), ("rule", "#D55E00", "///"), ("other", "#BBBBBB", "..."),
    ):  # fmt: skip
        widths = [1000 * run["speed"]["seconds"][part] / run["counts"]["emitted"] for _, run in shown]
        axes.barh(range(len(shown)), widths, left=left, color=color, hatch=hatch, edgecolor="white", label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(shown)), [textwrap.fill(name, 28) for name in names], fontsize=8)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=4, fontsize=8)
    return figure


def _tau_against_ideal(runs: Sequence[Run]) -> Figure | None:
    """Measured speed-ups by tau, each joined to the ideal one, which tau and the pass times allow."""
    shown = [(name, run.values) for name, run in runs if run.values["speed"]["ideal_speedup"] is not None]
    if not shown:
        return None
    figure, axes = axes_of("tau (tokens a target pass)", "speed-up over the target alone")
    styles = _styles([name for name, _ in shown])
    for name, run in shown:
        tau, speed, style = run["acceptance"]["tau"], run["speed"], styles[name]
        axes.plot([tau, tau], [speed["speedup"], speed["ideal_speedup"]], color=style["color"], linewidth=0.8)
        axes.plot(tau, speed["speedup"], linestyle="none", label=name, **style)
        axes.plot(tau, speed["ideal_speedup"], **style, markerfacecolor="white")
    axes.plot([], [], "o", color="black", markerfacecolor="white", label="ideal (free rule and loop)")
    axes.axhline(1.0, color="black", linewidth=0.8)
    _legend(figure)
    return figure


def _error_bars(axes: Axes, xs: Sequence[Any], runs: Sequence[Result], group: str, key: str, **style: Any) -> None:
    heights = [run.values[group][key] for run in runs]
    spans = [_around(y, run.values[group][f"{key}_ci95"]) or [[0], [0]] for y, run in zip(heights, runs, strict=True)]
    below, above = zip(*((span[0][0], span[1][0]) for span in spans), strict=True)
    axes.errorbar(xs, heights, [below, above], capsize=3, **style)


def _around(value: float, interval: Sequence[float] | None, scale: float = 1) -> list[list[float]] | None:
    """An interval as matplotlib takes it: distances below and above the value."""
    if interval is None:
        return None
    return [[max(0.0, value - interval[0] * scale)], [max(0.0, interval[1] * scale - value)]]


def axes_of(x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = pyplot.subplots(figsize=(_WIDTH, 3.2), layout="constrained")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    return figure, axes


def _styles(names: Sequence[str]) -> dict[str, Style]:
    """By name, the method's colour and the first marker that no other run of that colour has."""
    others: dict[str, str] = {}
    used: dict[str, int] = {}
    styles: dict[str, Style] = {}
    for name in names:
        method = name.split()[0]
        color = _COLORS.get(method) or others.setdefault(method, _OTHERS[len(others) % len(_OTHERS)])
        styles[name] = {"color": color, "marker": _MARKERS[used.get(color, 0) % len(_MARKERS)], "markersize": 5}
        used[color] = used.get(color, 0) + 1
    return styles


def _legend(figure: Figure) -> None:
    """Below the axes, with height of its own; each name once."""
    handles = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = 3 if max(map(len, handles)) < 16 else 2 if max(map(len, handles)) < 30 else 1
    names = [textwrap.fill(name, 60) for name in handles]
    figure.set_figheight(figure.get_figheight() + 0.16 * -(-sum(1 + name.count("\n") for name in names) // columns))
    figure.legend(handles.values(), names, loc="outside lower center", ncols=columns, fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    for kind in ("svg", "png"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=200)
    pyplot.close(figure)
    return path.with_suffix(".png")
