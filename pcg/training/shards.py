"""Parquet shards of a training's corpora: there whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def shards(folder: str, split: str) -> list[Path]:
    """The shards of a split in order.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(Path(folder).glob(f"{split}-*.parquet"))
    if not found:
        raise FileNotFoundError(
            f"no {split}-*.parquet in {folder}: make the corpus first (experiments/train.py trainer=corpus)"
        )
    return found


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Under another name until it is whole: a stage that is started again takes a shard that is there for finished."""
    import datasets  # seconds

    part = path.with_suffix(".part")
    datasets.Dataset.from_list(list(rows)).to_parquet(part)
    os.replace(part, path)
