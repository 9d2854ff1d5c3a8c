"""The plots of a study, each as PNG and SVG. A plot without two points to show is left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pcg.runner.identity import theta
from pcg.types import Result

Run = tuple[str, Result]  # what it is called, and its figures


def draw_plots(results: Sequence[Result], labels: Sequence[str], folder: Path) -> list[Path]:
    """Alpha and speed-up against theta, WER against speed-up, acceptance by position, where the time goes, and the
    measured against the ideal speed-up by tau. Returns the PNG files.

    Args:
        labels: what each run is called.
    """
    runs = list(zip(labels, results, strict=True))
    drawn = [
        ("alpha_theta", _against_theta(runs, "acceptance", "alpha", "alpha (share of tested tokens kept)")),
        ("speedup_theta", _against_theta(runs, "speed", "speedup", "speed-up over the target alone")),
        ("wer_speedup", _quality_against_speed(runs, "wer", "WER, %", 100)),
        ("accepted_position", _accepted_by_position(runs)),
        ("time_parts", _where_time_goes(runs)),
        ("tau_ideal", _tau_against_ideal(runs)),
    ]
    return [save(figure, folder / name) for name, figure in drawn if figure is not None]


def _against_theta(runs: Sequence[Run], group: str, key: str, axis: str) -> Figure | None:
    """A line for runs that differ in theta alone, a level for each that has none."""
    shown = [(name, run) for name, run in runs if run.values[group][key] is not None]
    lines: dict[str, list[Result]] = {}
    for name, run in shown:
        if (at := theta(run.values["config"])) is not None:
            lines.setdefault(name.replace(f" theta={at}", ""), []).append(run)
    if max(map(len, lines.values()), default=0) < 2:
        return None
    figure, axes = axes_of("theta (cosine above which tokens share a group)", axis)
    for name, members in lines.items():
        members.sort(key=lambda run: theta(run.values["config"]) or 0.0)
        places = [theta(run.values["config"]) for run in members]
        _error_bars(axes, places, members, group, key, label=name, marker="o")
    for name, run in shown:
        if theta(run.values["config"]) is None and run.values["method"] != "target alone":
            axes.axhline(run.values[group][key], linestyle="--", label=name, color=_color(name))
    if key == "speedup":
        axes.axhline(1.0, color="black", linewidth=0.8, label="target alone")
    axes.legend()
    return figure


def _quality_against_speed(runs: Sequence[Run], key: str, axis: str, scale: float) -> Figure | None:
    points = [
        (name, run.values["speed"], run.values["quality"])
        for name, run in runs
        if run.values["speed"]["speedup"] and run.values["quality"].get(key) is not None
    ]
    if len(points) < 2:
        return None
    figure, axes = axes_of("speed-up over the target alone", axis)
    for name, speed, quality in points:
        x, y = speed["speedup"], quality[key] * scale
        axes.errorbar(
            x, y, _around(y, quality[f"{key}_ci95"], scale), _around(x, speed["speedup_ci95"]),
            marker="o", color=_color(name), elinewidth=0.7, alpha=0.85,
        )  # fmt: skip
        axes.annotate(name, (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    return figure


def _accepted_by_position(runs: Sequence[Run]) -> Figure | None:
    """The share of rounds in which the draft was kept up to each position of the block."""
    shown = [(name, run.values["counts"]) for name, run in runs if run.values["counts"]["accepted_by_position"]]
    if not shown:
        return None
    figure, axes = axes_of("position in the block", "share of rounds that keep it")
    for name, counts in shown:
        kept = [accepted / counts["rounds"] for accepted in counts["accepted_by_position"]]
        axes.plot(range(1, len(kept) + 1), kept, marker="o", label=name)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)
    return figure


def _where_time_goes(runs: Sequence[Run]) -> Figure | None:
    """Milliseconds an emitted token, by part of the loop; prefill is apart, as in the speed-up."""
    shown = [(name, run.values) for name, run in runs if run.values["counts"]["emitted"]]
    if not shown:
        return None
    figure, axes = axes_of("milliseconds an emitted token", "")
    figure.set_figheight(1.6 + 0.32 * len(shown))
    names, left = [name for name, _ in shown], [0.0] * len(shown)
    for part, color in (("draft", "#56B4E9"), ("target", "#0072B2"), ("rule", "#D55E00"), ("other", "#999999")):
        widths = [1000 * run["speed"]["seconds"][part] / run["counts"]["emitted"] for _, run in shown]
        axes.barh(range(len(shown)), widths, left=left, color=color, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def _tau_against_ideal(runs: Sequence[Run]) -> Figure | None:
    """Measured speed-up by tau, joined to what tau and the pass times would allow with a free rule and a free loop."""
    shown = [(name, run.values) for name, run in runs if run.values["speed"]["ideal_speedup"] is not None]
    if not shown:
        return None
    figure, axes = axes_of("tau (tokens a target pass)", "speed-up over the target alone")
    for name, run in shown:
        tau, speed, color = run["acceptance"]["tau"], run["speed"], _color(name)
        axes.plot([tau, tau], [speed["speedup"], speed["ideal_speedup"]], color=color, linewidth=0.8)
        axes.plot(tau, speed["speedup"], marker="o", color=color)
        axes.plot(tau, speed["ideal_speedup"], marker="o", color=color, markerfacecolor="white")
        axes.annotate(name, (tau, speed["ideal_speedup"]), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.plot([], [], "o", color="black", label="measured")
    axes.plot([], [], "o", color="black", markerfacecolor="white", label="ideal (free rule, free loop)")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.legend()
    return figure


def _error_bars(axes: Axes, places: Sequence[Any], runs: Sequence[Result], group: str, key: str, **style: Any) -> None:
    heights = [run.values[group][key] for run in runs]
    spans = [_around(y, run.values[group][f"{key}_ci95"]) or [[0], [0]] for y, run in zip(heights, runs, strict=True)]
    below, above = zip(*((span[0][0], span[1][0]) for span in spans), strict=True)
    axes.errorbar(places, heights, [below, above], capsize=3, color=_color(style["label"]), **style)


def _around(value: float, interval: Sequence[float] | None, scale: float = 1) -> list[list[float]] | None:
    """An interval as matplotlib wants it: distances below and above the value."""
    if interval is None:
        return None
    return [[max(0.0, value - interval[0] * scale)], [max(0.0, interval[1] * scale - value)]]


def axes_of(x: str, y: str) -> tuple[Figure, Axes]:
    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _color(name: str) -> str:
    """The same colour for the same method in every plot (Okabe and Ito's palette, safe for the colour-blind)."""
    order = ("target alone", "exact", "pcg", "ssd")
    palette = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    base = next((method for method in order if name.startswith(method)), None)
    return palette[order.index(base)] if base else palette[len(order) + sum(name.encode()) % 3]


def save(figure: Figure, path: Path) -> Path:
    for kind in ("svg", "png"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=150)
    pyplot.close(figure)
    return path.with_suffix(".png")
