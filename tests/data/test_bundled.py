from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pcg.data import audio, bundled
from pcg.data.bundled import Bundled


@pytest.fixture(scope="module")
def utterances():
    return list(Bundled())


def test_hundred_utterances_balanced_over_eight_speakers(utterances):
    counts = Counter(u.speaker for u in utterances)
    assert len(utterances) == 100
    assert len(counts) == 8
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({u.speaker for u in utterances[:20]}) == 8


def test_ids_and_texts_are_unique(utterances):
    assert len({u.id for u in utterances}) == len({u.text for u in utterances}) == len(utterances)


def test_limit_takes_the_first_in_the_same_order(utterances):
    assert len(Bundled(limit=5)) == 5
    assert [u.id for u in Bundled(limit=5)] == [u.id for u in utterances[:5]]
    assert len(Bundled(limit=1000)) == len(utterances)
    with pytest.raises(ValueError, match="limit=0"):
        Bundled(limit=0)


def test_prompts_are_in_the_speakers_voice_and_never_a_test_sentence(utterances):
    voices = list(Bundled()._voices)
    speaker_of = {v["text"]: v["speaker"] for v in voices}
    assert all(speaker_of[u.prompt_text] == u.speaker for u in utterances)
    assert not {v["id"] for v in voices} & {u.id for u in utterances}
    assert not {v["text"] for v in voices} & {u.text for u in utterances}


def test_audio_is_decoded_only_when_asked_for(monkeypatch):
    decoded = []
    monkeypatch.setattr(audio, "decode", lambda data, source: decoded.append(data))
    first = next(iter(Bundled()))
    assert decoded == []
    first.load_prompt()
    assert len(decoded) == 1


def test_audio_is_16_khz_mono_speech_of_the_promised_length(utterances):
    for u in utterances[:8]:
        prompt, reference = u.load_prompt(), u.load_reference()
        assert prompt.sample_rate == reference.sample_rate == 16_000
        assert prompt.samples.dtype == np.float32
        assert prompt.samples.ndim == 1
        assert 2.0 <= prompt.seconds <= 3.2
        assert 3.0 <= reference.seconds <= 6.0
        assert 6 <= len(u.text.split()) <= 16
        assert 0.02 < reference.samples.std() < 0.5


def test_package_stays_small():
    folder = bundled.files("pcg.data") / "bundled"
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) < 10e6
