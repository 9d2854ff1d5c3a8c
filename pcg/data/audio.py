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

_LOUDEST, _FAINTEST = 4.0, 2e-4  # peaks beyond these are samples that were never scaled, or silence; 1 is full scale
_CANCELLED = 0.2  # a mix below this share of the louder channel's level: the channels cancel each other
_UNKNOWN_SIZE = 0x7FFFF000  # a WAV header has a size above it if the file was written into a pipe
_NO_SUFFIXES = ("mat4", "mat5", "raw")  # formats of soundfile that are not audio files, or have no header
_MORE_SUFFIXES = ("aif", "aifc", "oga", "opus", "snd", "wave")
SUFFIXES = frozenset(
    f".{name.lower()}" for name in (*soundfile.available_formats(), *_MORE_SUFFIXES) if name.lower() not in _NO_SUFFIXES
)


class UnreadableAudio(ValueError):
    """A recording cannot be used: it is damaged, truncated, empty, of an unknown format, silent, never scaled, or its
    channels cancel each other. The message names it."""


@dataclass(frozen=True)
class Recording:
    """An audio file. A call returns its samples; ``read`` returns its bytes, which identify it without decoding.

    Attributes:
        source: name of the file, for messages.
    """

    read: Callable[[], bytes]
    source: str = "a recording"

    def __call__(self) -> Audio:
        return decode(self.read(), self.source)


def decode(data: bytes, source: str = "a recording") -> Audio:
    """Mono float32 audio from the bytes of a WAV, FLAC, OGG, MP3, ... file; channels are averaged.

    Args:
        source: name of the file, for messages.

    Raises:
        UnreadableAudio: it cannot be used.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            samples, sample_rate, frames = file.read(dtype="float32", always_2d=True), file.samplerate, file.frames
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".") or f"error {error.code}"
        raise UnreadableAudio(
            f"{source} is damaged or no audio file ({reason}); allowed: WAV, FLAC, OGG, MP3, all that libsndfile reads"
        ) from error
    problem = _problem(data, samples, frames)
    if problem:
        raise UnreadableAudio(f"{source} {problem}")
    return Audio(samples.mean(1), sample_rate, source)


def _problem(data: bytes, samples: np.ndarray, frames: int) -> str | None:
    if not samples.size:
        return "holds no audio"
    if len(samples) < 0.9 * frames:  # for an MP3 the number of frames is an estimate
        return f"is truncated: it holds {len(samples)} of {frames} samples"
    size = int.from_bytes(data[4:8], "little") + 8
    if data[:4] == b"RIFF" and len(data) + 1 < size < _UNKNOWN_SIZE:  # the last byte may be padding
        return f"is truncated: it holds {len(data)} of {size} bytes"
    bad = int((~np.isfinite(samples)).sum())
    return f"holds NaN or infinity in {bad} of its {samples.size} samples" if bad else _inaudible(samples)


def _inaudible(samples: np.ndarray) -> str | None:
    """Why the recording is no use as a voice: silence, samples that were never scaled, channels that cancel."""
    peak = float(np.abs(samples).max())
    if peak > _LOUDEST:
        return f"holds samples up to {peak:,.0f}, but full scale is 1; divide them by their full scale (such as 32,768)"
    if peak < _FAINTEST:
        return f"is silent: its loudest sample is {peak:.1g} of full scale"
    levels, mixed = np.sqrt(np.square(samples).mean(0)), float(np.sqrt(np.square(samples.mean(1)).mean()))
    if mixed < _CANCELLED * float(levels.max()):
        return "has channels that cancel each other when mixed; give a file with one of them"
    return None


def recorded_in(path: str | Path) -> Recording:
    """The recording in a file.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if problem := no_file(Path(path)):
        raise FileNotFoundError(problem)
    return Recording(Path(path).read_bytes, str(path))


def voice_problems(voice: Path | None, words: str, names: tuple[str, str]) -> list[str]:
    """What is wrong with a dataset's voice: the file, or one of voice and words without the other.

    Args:
        words: what the recording says.
        names: of the two arguments, for messages.
    """
    problems = [f"{names[0]}={problem}"] if voice is not None and (problem := no_file(voice)) else []
    if voice is not None and not words.strip():
        problems.append(f"{names[1]} is required with {names[0]}: the words of the recording")
    if voice is None and words.strip():
        problems.append(f"{names[0]} is required with {names[1]}: the recording of these words")
    return problems
