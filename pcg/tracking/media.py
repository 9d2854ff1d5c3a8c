"""Audio, pictures and histograms of a run for W&B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import wandb
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

# Kind -> (colour, label), as on the listening page.
KINDS = {
    "exact": ("#0072b2", "kept exactly"),
    "group": ("#e69f00", "kept by its group (or rule) only"),
    "candidate": ("#cc79a7", "kept, not the first candidate"),
    "recovered": ("#d1495b", "recovered"),
    "bonus": ("#009e73", "bonus"),
    "plain": ("#a3abb5", "target alone"),
}
_BARS = 400  # points of the waveform


def table(utterances: Sequence[Mapping[str, Any]], folder: Path, audio: int, timelines: int) -> wandb.Table:
    """A table of the first utterances: audio, token timeline, alpha, then all plain columns.

    Args:
        folder: of the run, which holds the audio.
        audio: how many utterances.
        timelines: how many of these have a picture of their token timeline.
    """
    rows = utterances[:audio]
    plain = [
        key
        for key in (rows[0] if rows else {})
        if key != "audio" and not any(isinstance(row[key], list | tuple | dict) for row in rows)
    ]
    data = []
    for index, row in enumerate(rows):
        audio_file, pixels = row.get("audio"), picture(row, folder) if index < timelines else None
        data.append(
            [
                wandb.Audio(str(folder / audio_file)) if audio_file else None,
                None if pixels is None else wandb.Image(pixels, caption=row["text"]),
                row["accepted"] / row["tested"] if row.get("tested") else None,
                *[row[key] for key in plain],
            ]
        )
    return wandb.Table(columns=["audio", "timeline", "alpha", *plain], data=data)


def group_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """A histogram of the groups' sizes: 1, 2 to 3, 4 to 7, ... tokens; empty without groups."""
    if not values.get("groups"):
        return {}
    histogram = values["groups"]["histogram"]
    return {"group_sizes": wandb.Histogram(np_histogram=(histogram["counts"], histogram["edges"]))}


def picture(row: Mapping[str, Any], folder: Path) -> np.ndarray | None:
    """A picture of an utterance's token timeline: its waveform, and below it the kind of each token.

    Args:
        row: of ``utterances.parquet``.
        folder: of the run, which holds the row's ``audio``.

    Returns:
        RGB pixels (height, width, 3); None for an utterance that failed.
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
