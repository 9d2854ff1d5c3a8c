"""Audio bytes and files -> samples, by soundfile."""

from __future__ import annotations

import io
from pathlib import Path

import soundfile

from pcg.types import Audio


def decode(data: bytes) -> Audio:
    """Mono float32 audio from the bytes of a WAV, FLAC, OGG or MP3 file; channels are averaged."""
    samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return Audio(samples.mean(1), sample_rate)


def read(path: str | Path) -> Audio:
    return decode(Path(path).read_bytes())
