"""Reads the corpus back: parquet shards, FLAC bytes through soundfile."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch
from jaxtyping import Float
from torch import Tensor

from pcg.data.stored import Rows


def rows(shard: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one shard, with ``samples`` (float32) in place of the encoded ``audio``."""
    for row in Rows([shard]):
        samples, _ = soundfile.read(io.BytesIO(row.pop("audio")), dtype="float32")
        yield row | {"samples": torch.from_numpy(samples)}


def batched_mels(shard: Path, mel: torch.nn.Module) -> Iterator[tuple[dict[str, Any], Float[Tensor, "bands frames"]]]:
    for row in rows(shard):
        yield row, mel(row["samples"][None])[0]
