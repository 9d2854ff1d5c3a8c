"""What of a run's utterances and groups can be seen and heard in W&B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from pcg.tracking.timeline import picture


def table(utterances: Sequence[Mapping[str, Any]], folder: Path, audio: int, timelines: int) -> wandb.Table:
    """The first utterances: what may be heard and seen of them, then all plain columns.

    Args:
        folder: of the run, which the audio is in.
        audio: how many utterances.
        timelines: how many of these have a picture of their token timeline.
    """
    rows = utterances[:audio]
    plain = [
        key
        for key in (rows[0] if rows else {})
        if key != "audio" and not any(isinstance(row[key], list | tuple | dict) for row in rows)
    ]
    data = [
        [
            _audio(row, folder),
            _timeline(row, folder) if index < timelines else None,
            _alpha(row),
            *[row[key] for key in plain],
        ]
        for index, row in enumerate(rows)
    ]
    return wandb.Table(columns=["audio", "timeline", "alpha", *plain], data=data)


def group_sizes(values: Mapping[str, Any]) -> dict[str, Any]:
    """How many groups there are of 1, 2 to 3, 4 to 7, ... tokens."""
    if not values.get("groups"):
        return {}
    histogram = values["groups"]["histogram"]
    return {"group_sizes": wandb.Histogram(np_histogram=(histogram["counts"], histogram["edges"]))}


def _alpha(row: Mapping[str, Any]) -> float | None:
    return row["accepted"] / row["tested"] if row.get("tested") else None


def _timeline(row: Mapping[str, Any], folder: Path) -> Any:
    pixels = picture(row, folder)
    return None if pixels is None else wandb.Image(pixels, caption=row["text"])


def _audio(row: Mapping[str, Any], folder: Path) -> Any:
    path = row.get("audio")
    return wandb.Audio(str(folder / path)) if path else None
