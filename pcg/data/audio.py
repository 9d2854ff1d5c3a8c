"""Audio bytes and files -> samples, by soundfile."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import soundfile

from pcg.types import Audio


@dataclass(frozen=True)
class Recording:
    """An audio file: called, its samples; ``read`` gives its bytes, which tell it from others without decoding."""

    read: Callable[[], bytes]

    def __call__(self) -> Audio:
        return decode(self.read())


def decode(data: bytes) -> Audio:
    """Mono float32 audio from the bytes of a WAV, FLAC, OGG or MP3 file; channels are averaged."""
    samples, sample_rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return Audio(samples.mean(1), sample_rate)


def recorded_in(path: str | Path) -> Recording:
    return Recording(Path(path).read_bytes)
