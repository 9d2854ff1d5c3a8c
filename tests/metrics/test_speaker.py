from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from pcg.metrics.speaker import SpeakerSimilarity, encoder
from pcg.types import Utterance
from tests.metrics.conftest import quality_of

OFFICIAL = Path(__file__).with_name("resemblyzer.npy")  # what Resemblyzer's own code embeds ``CASES`` to
CASES = [(0.3, 1.0), (1.0, 1.0), (1.6, 0.02), (2.9, 1.0), (4.0, 0.02)]  # seconds, gain


def signal(seconds: float, gain: float) -> np.ndarray:
    """A buzz that glides and swells, with breath noise: float32 at 16 kHz."""
    time = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * (120 * time + 8 * np.sin(3 * time))
    formant = 700 + 400 * np.sin(5 * time)
    buzz = sum(np.sin(k * phase) * np.exp(-0.5 * ((k * 120 - formant) / 500) ** 2) for k in range(1, 40))
    breath = np.random.default_rng(0).normal(0, 0.02, len(time))
    return (gain * (0.2 * buzz * (0.6 + 0.4 * np.sin(9 * time)) + breath)).astype(np.float32)


def make_official() -> None:
    """Run by hand (``python tests/metrics/test_speaker.py``) with Resemblyzer 0.1.4 and librosa 0.11 installed."""
    # neither is needed to embed, and neither imports here: webrtcvad, and a scipy module that is gone
    sys.modules["webrtcvad"] = types.ModuleType("webrtcvad")
    sys.modules["scipy.ndimage.morphology"] = types.SimpleNamespace(binary_dilation=None)
    from resemblyzer import VoiceEncoder
    from resemblyzer.audio import normalize_volume

    clips = [normalize_volume(signal(*case), -30, increase_only=True) for case in CASES]
    embedder = VoiceEncoder("cpu", verbose=False)
    np.save(OFFICIAL, np.stack([embedder.embed_utterance(clip) for clip in clips]))


@pytest.mark.parametrize("index", range(len(CASES)))
def test_embeddings_equal_resemblyzers(index):
    theirs = np.load(OFFICIAL)[index]
    ours = encoder().embed(signal(*CASES[index])).numpy()
    assert theirs @ ours > 0.99999
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_same_voice_is_closer_than_another(spoken):
    audio = [a for _, a in spoken]
    metric = SpeakerSimilarity()
    utterances = [u for u, _ in spoken]
    own = [r["speaker_similarity"] for r in metric.score(audio, utterances)]
    others = [r["speaker_similarity"] for r in metric.score(audio, utterances[3:] + utterances[:3])]
    assert min(own) > 0.75
    assert np.mean(own) > np.mean(others) + 0.15


def test_same_audio_scores_one_and_again_the_same(spoken):
    utterance, audio = spoken[0]
    same = Utterance("a", "", load_reference=lambda: audio)
    metric = SpeakerSimilarity()
    assert metric.score([audio], [same])[0]["speaker_similarity"] == pytest.approx(1, abs=1e-5)
    assert metric.score([audio], [utterance]) == metric.score([audio], [utterance])


def test_silence_and_nothing_do_not_crash(spoken, nothing):
    utterance, audio = spoken[0]
    silence = type(audio)(np.zeros(8000, dtype=np.float32), 16_000)
    rows = SpeakerSimilarity().score([nothing, silence], [utterance, utterance])
    assert rows[0]["speaker_similarity"] == 0
    assert 0 <= rows[1]["speaker_similarity"] < 0.75


def test_without_a_voice_to_compare_with_there_is_no_similarity(spoken, nothing):
    utterance, audio = spoken[0]
    metric, silent = SpeakerSimilarity(), Utterance("a", "text")
    rows = metric.score([audio, nothing, audio], [silent, silent, utterance])
    assert [row["speaker_similarity"] for row in rows[:2]] == [None, None]
    assert quality_of(rows, metric.figures)["speaker_similarity"] == rows[2]["speaker_similarity"]
    assert quality_of(rows[:2], metric.figures)["speaker_similarity"] is None


if __name__ == "__main__":
    make_official()
