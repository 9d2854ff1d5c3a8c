from __future__ import annotations

import sys

import numpy as np
import pytest

from pcg.metrics.mos import Mos
from pcg.types import Audio, Utterance


def test_cleaner_is_better_within_the_scale(spoken, noise, nothing):
    utterance, audio = spoken[1]
    rng = np.random.default_rng(0)
    clips = [Audio(audio.samples + rng.normal(0, s, len(audio.samples)).astype(np.float32), 16_000) for s in (0, 0.02)]
    rows = Mos().score([*clips, noise, nothing], [utterance] * 4)
    clean, noisy, pure_noise, empty = (row["mos"] for row in rows)
    assert 5 >= clean > noisy + 0.3
    assert noisy > pure_noise >= 1
    assert empty == 1


def test_deterministic_and_blind_to_loudness(spoken):
    utterance, audio = spoken[0]
    quiet = Audio(audio.samples * np.float32(0.25), 16_000)
    (a,), (b,), (c,) = (Mos().score([x], [utterance]) for x in (audio, audio, quiet))
    assert a == b
    assert c["mos"] == pytest.approx(a["mos"], abs=1e-3)


def test_any_length_is_scored():
    tone = np.sin(np.arange(16_000 * 9) * 0.05).astype(np.float32)
    for samples in (tone[:100], tone):
        (row,) = Mos().score([Audio(samples, 16_000)], [Utterance("a", "")])
        assert 1 <= row["mos"] <= 5


def test_stand_in_for_torchaudio_does_not_stay():
    Mos().score([Audio(np.ones(1000, dtype=np.float32), 16_000)], [Utterance("a", "")])
    assert "torchaudio" not in sys.modules or hasattr(sys.modules["torchaudio"], "load")
