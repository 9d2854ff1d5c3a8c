"""A picture of an utterance's token timeline: its waveform, and below it what became of each token."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# As on the listening page. Kind -> (colour, what it is called).
KINDS = {
    "exact": ("#0072b2", "kept exactly"),
    "group": ("#e69f00", "kept by its group (or rule) only"),
    "candidate": ("#cc79a7", "kept, not the first candidate"),
    "recovered": ("#d1495b", "recovered"),
    "bonus": ("#009e73", "bonus"),
    "plain": ("#a3abb5", "target alone"),
}
_BARS = 400  # points of the waveform


def picture(row: Mapping[str, Any], folder: Path) -> np.ndarray | None:
    """RGB pixels (height, width, 3) of a finished utterance of ``utterances.parquet``; None of one that failed.

    Args:
        folder: of the run, which the row's ``audio`` is in.
    """
    if not row.get("kinds") or not row.get("audio"):
        return None
    samples, rate = soundfile.read(folder / row["audio"], dtype="float32")
    seconds, kinds = len(samples) / rate, row["kinds"]
    figure = Figure(figsize=(10, 1.7), dpi=110)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.2, 0.98, 0.66))
    peaks = np.array([np.abs(part).max() for part in np.array_split(samples, min(_BARS, len(samples)))])
    peaks /= max(peaks.max(), 1e-6)
    at = (np.arange(len(peaks)) + 0.5) * seconds / len(peaks)
    axes.vlines(at, -peaks, peaks, color="#8b95a3", linewidth=1)
    edges = np.linspace(0, seconds, len(kinds) + 1)
    cells = [[(left, -2), (right, -2), (right, -1.2), (left, -1.2)] for left, right in pairwise(edges)]
    axes.add_collection(PolyCollection(cells, facecolors=[KINDS[kind][0] for kind in kinds], linewidths=0))
    axes.set(xlim=(0, seconds), ylim=(-2.1, 1.1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(labelsize=8)
    shown = [Patch(color=color, label=name) for kind, (color, name) in KINDS.items() if kind in kinds]
    figure.legend(handles=shown, loc="upper left", ncols=len(shown), frameon=False, fontsize=8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
