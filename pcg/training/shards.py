"""Parquet shards of training corpora: a shard is written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet


def shards(folder: str, split: str) -> list[Path]:
    """The shards of a split in order.

    Raises:
        FileNotFoundError: there are none.
    """
    found = sorted(Path(folder).glob(f"{split}-*.parquet"))
    if not found:
        raise FileNotFoundError(
            f"no {split}-*.parquet in {folder}: make them first (pcg train trainer=corpus, samples or recorded)"
            + ("; trainer.heldout=0 trains without held-out speech" if split == "heldout" else "")
        )
    return found


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a shard, under another name until it is whole: a stage that starts again skips shards that are there."""
    part = path.with_suffix(".part")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), part)
    os.replace(part, path)
