"""Parquet shards of training corpora. A shard is written completely or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import soundfile
import torch

from pcg.data.stored import ParquetRows
from pcg.files import replacing


def shard_path(folder: str | Path, split: str, index: int) -> Path:
    """The file of the split's shard of this number."""
    return Path(folder) / f"{split}-{index:04d}.parquet"


def shards(folder: str, split: str) -> list[Path]:
    """The files of a split in order.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(Path(folder).glob(f"{split}-*.parquet"))
    if not files:
        raise FileNotFoundError(
            f"no {split}-*.parquet in {folder}: make them first (pcg train trainer=corpus, samples or recorded)"
            + ("; trainer.heldout=0 trains without held-out speech" if split == "heldout" else "")
        )
    return files


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a whole shard or none, so that a restarted stage can skip existing shards."""
    with replacing(path) as unfinished:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), unfinished)


def audio_rows(shard: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a shard of the corpus, with ``samples`` (float32) instead of the encoded ``audio``."""
    for row in ParquetRows([shard]):
        samples, _ = soundfile.read(io.BytesIO(row.pop("audio")), dtype="float32")
        yield row | {"samples": torch.from_numpy(samples)}
