"""Audio bytes and files -> samples, by soundfile."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from pcg.files import no_file
from pcg.types import Audio

_LOUDEST, _FAINTEST = (
    4.0,
    2e-4,
)  # a peak beyond these is of samples that were never scaled, or of silence; 1 is full scale
_CANCELLED = 0.2  # of the louder channel's level: what is left where channels are each other's opposite
_UNKNOWN_SIZE = 0x7FFFF000  # programs that write a WAV into a pipe give a size above it
_NO_SUFFIXES = ("mat4", "mat5", "raw")  # formats of soundfile that are not audio files, or do not say what they hold
_MORE_SUFFIXES = ("aif", "aifc", "oga", "opus", "snd", "wave")
SUFFIXES = frozenset(
    f".{name.lower()}" for name in (*soundfile.available_formats(), *_MORE_SUFFIXES) if name.lower() not in _NO_SUFFIXES
)


class UnreadableAudio(ValueError):
    """A recording that is damaged, cut short, empty, of no format that can be read, or in which nothing is heard:
    silent, never scaled, or of channels that cancel each other out. The message names it."""


@dataclass(frozen=True)
class Recording:
    """An audio file: called, its samples; ``read`` gives its bytes, which tell it from others without decoding.

    Attributes:
        source: what the file is called.
    """

    read: Callable[[], bytes]
    source: str = "a recording"

    def __call__(self) -> Audio:
        return decode(self.read(), self.source)


def decode(data: bytes, source: str = "a recording") -> Audio:
    """Mono float32 audio from the bytes of a WAV, FLAC, OGG, MP3, ... file; channels are averaged.

    Args:
        source: what the file is called.

    Raises:
        UnreadableAudio: naming it.
    """
    readable = "WAV, FLAC, OGG, MP3, and what else libsndfile reads"
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            samples, sample_rate, promised = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".") or f"error {error.code}"
        raise UnreadableAudio(f"{source} is damaged, or of no kind that can be read ({reason}): {readable}") from error
    problem = _problem(data, samples, promised)
    if problem:
        raise UnreadableAudio(f"{source} {problem}")
    return Audio(samples.mean(1), sample_rate, source)


def _problem(data: bytes, samples: np.ndarray, promised: int) -> str | None:
    if not samples.size:
        return "holds no audio"
    if len(samples) < 0.9 * promised:  # of an MP3 it is an estimate
        return f"is cut short: {len(samples)} of {promised} samples are there"
    size = int.from_bytes(data[4:8], "little") + 8
    if data[:4] == b"RIFF" and len(data) + 1 < size < _UNKNOWN_SIZE:  # the last byte may be padding
        return f"is cut short: {len(data)} of {size} bytes are there"
    bad = int((~np.isfinite(samples)).sum())
    return f"holds NaN or infinity in {bad} of its {samples.size} samples" if bad else _inaudible(samples)


def _inaudible(samples: np.ndarray) -> str | None:
    """Why nobody hears in it what was recorded: as a voice it would make a model say anything or nothing."""
    peak = float(np.abs(samples).max())
    if peak > _LOUDEST:
        return f"holds samples up to {peak:,.0f}, and full scale is 1: divide them by 32,768, or whatever it was"
    if peak < _FAINTEST:
        return f"is silent: its loudest sample is {peak:.1g} of full scale"
    levels, mixed = np.sqrt(np.square(samples).mean(0)), float(np.sqrt(np.square(samples.mean(1)).mean()))
    if mixed < _CANCELLED * float(levels.max()):
        return "has channels that cancel each other out when they are mixed to one: give one of them"
    return None


def recorded_in(path: str | Path) -> Recording:
    """Of a file; raises FileNotFoundError where it is not there, or a link that leads nowhere."""
    if wrong := no_file(Path(path)):
        raise FileNotFoundError(wrong)
    return Recording(Path(path).read_bytes, str(path))
