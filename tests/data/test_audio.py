"""Audio files are read whole, or refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcg.data.audio import SUFFIXES, UnreadableAudio, decode, recorded_in

TONE = 0.3 * np.sin(np.arange(16_000) / 9)


def audio(kind: str = "WAV", samples: np.ndarray = TONE, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=kind, **how)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64"])
def test_what_soundfile_reads_is_read(kind: str, tmp_path: Path) -> None:
    assert f".{kind.lower()}" in SUFFIXES
    path = tmp_path / "voice.audio"
    path.write_bytes(audio(kind))
    clip = recorded_in(path)()
    assert (clip.sample_rate, clip.source) == (16_000, str(path))
    assert clip.seconds == pytest.approx(1, abs=0.1)
    assert np.abs(clip.samples).max() == pytest.approx(0.3, abs=0.05)


def test_channels_are_averaged() -> None:
    both = decode(audio(samples=np.stack([TONE, TONE / 2], 1))).samples
    assert both == pytest.approx(0.75 * TONE, abs=1e-4)
    one = decode(audio(samples=np.stack([TONE, 0 * TONE], 1))).samples  # a voice in one channel of two is a voice
    assert one == pytest.approx(TONE / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        (TONE * 32_767, r"holds samples up to 9,830, but full scale is 1; divide them"),
        (0 * TONE, "is silent: its loudest sample is 0 of full scale"),
        (TONE / 32_767, "is silent: its loudest sample is 9e-06 of full scale"),
        (np.stack([TONE, -TONE], 1), "has channels that cancel each other when mixed"),
        (np.stack([TONE, -0.8 * TONE], 1), "has channels that cancel each other"),
        (np.stack([TONE, -TONE, 0 * TONE], 1), "has channels that cancel each other"),
    ],
)
def test_a_voice_that_nobody_hears_is_refused_by_name(samples: np.ndarray, problem: str) -> None:
    with pytest.raises(UnreadableAudio, match=f"my voice.wav {problem}"):
        decode(audio(samples=samples, subtype="FLOAT"), "my voice.wav")


def test_loud_and_quiet_voices_are_voices() -> None:
    for scale in (3.0, 0.003):
        assert decode(audio(samples=TONE * scale, subtype="FLOAT")).samples == pytest.approx(TONE * scale, abs=1e-6)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is damaged or no audio file"),
        (b"no audio at all, but words", "is damaged or no audio file .*; allowed: WAV, FLAC, OGG, MP3"),
        (audio("FLAC")[:3000], "is damaged or no audio file"),
        (audio()[:20_000], "is truncated: it holds 20000 of 32044 bytes"),
        (audio("MP3")[:1500], r"is truncated: it holds \d+ of 16000 samples"),
        (audio(samples=np.zeros(0)), "holds no audio"),
        (
            audio(samples=np.where(np.arange(16_000) == 7, np.nan, TONE), subtype="FLOAT"),
            "holds NaN or infinity in 1 of its",
        ),
        (audio(samples=np.full(100, np.inf), subtype="FLOAT"), "holds NaN or infinity in 100 of its 100 samples"),
    ],
)
def test_what_cannot_be_read_is_named(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "my voice.wav"
    path.write_bytes(data)
    with pytest.raises(UnreadableAudio, match=f"my voice.wav {problem}"):
        recorded_in(path)()


def test_a_wav_out_of_a_pipe_is_read() -> None:
    piped = bytearray(audio())
    piped[4:8] = b"\xff" * 4
    assert decode(bytes(piped)).seconds == 1
