"""The plots of a study, each as PNG and SVG. A plot without two points to show is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcg.runner.identity import theta
from pcg.types import Result


def draw_plots(results: Sequence[Result], folder: Path) -> list[Path]:
    """Alpha and speed-up against theta; WER against speed-up. Returns the PNG files."""
    drawn = [
        ("alpha_theta", _against_theta(results, "acceptance", "alpha", "alpha (share of tested tokens kept)")),
        ("speedup_theta", _against_theta(results, "speed", "speedup", "speed-up over the target alone")),
        ("wer_speedup", _quality_against_speed(results, "wer", "WER, %", 100)),
    ]
    return [_save(figure, folder / name) for name, figure in drawn if figure is not None]


def _against_theta(results: Sequence[Result], group: str, key: str, axis: str) -> Figure | None:
    """A line for each rule that has a theta, a level for each that has none."""
    points = [result for result in results if result.values[group][key] is not None]
    curved = [result for result in points if theta(result.values["config"]) is not None]
    if len({theta(result.values["config"]) for result in curved}) < 2:
        return None
    figure, axes = _axes("theta (cosine above which tokens share a group)", axis)
    for method, runs in _by_method(curved):
        places = [theta(run.values["config"]) for run in runs]
        _error_bars(axes, places, runs, group, key, label=method, marker="o")
    for run in points:
        if run not in curved and run.values["method"] != "target alone":
            style = _color(run.values["label"])
            axes.axhline(run.values[group][key], linestyle="--", label=run.values["label"], color=style)
    if key == "speedup":
        axes.axhline(1.0, color="black", linewidth=0.8, label="target alone")
    axes.legend()
    return figure


def _quality_against_speed(results: Sequence[Result], key: str, axis: str, scale: float) -> Figure | None:
    points = [run for run in results if run.values["speed"]["speedup"] and run.values["quality"].get(key) is not None]
    if len(points) < 2:
        return None
    figure, axes = _axes("speed-up over the target alone", axis)
    for run in points:
        x, y = run.values["speed"]["speedup"], run.values["quality"][key] * scale
        color = _color(run.values["method"])
        axes.errorbar(
            x, y, _around(y, run.values["quality"][f"{key}_ci95"], scale),
            _around(x, run.values["speed"]["speedup_ci95"]), marker="o", color=color, elinewidth=0.7, alpha=0.85,
        )  # fmt: skip
        axes.annotate(run.values["label"], (x, y), xytext=(5, 5), textcoords="offset points", fontsize=8)
    return figure


def _by_method(results: Iterable[Result]) -> Iterable[tuple[str, list[Result]]]:
    def name(run: Result) -> str:
        return run.values["method"]

    def place(run: Result) -> tuple[Any, ...]:
        return (name(run), theta(run.values["config"]))

    for method, runs in groupby(sorted(results, key=place), name):
        yield method, list(runs)


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


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
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


def _save(figure: Figure, path: Path) -> Path:
    for kind in ("svg", "png"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=150)
    pyplot.close(figure)
    return path.with_suffix(".png")
