"""Whisper and WavLM on folders of their real shape with random weights: everything but the figures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, WavLMForXVector, WhisperForConditionalGeneration

from pcg.metrics import whisper as whisper_module
from pcg.metrics.asr import WordErrors
from pcg.metrics.wavlm import WavLMSimilarity
from pcg.metrics.whisper import Whisper
from pcg.models import hub
from pcg.types import Audio, Utterance
from tests.shapes import make_wavlm, make_whisper


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_whisper(tmp_path_factory.mktemp("whisper")))


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_wavlm(tmp_path_factory.mktemp("wavlm")))


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)


def test_whisper_batches_equal_single_clips_and_transformers(whisper: str) -> None:
    clips = [noise(seconds, seed) for seed, seconds in enumerate((1.0, 2.5, 0.3))]
    recogniser = Whisper(whisper, device="cpu", batch_size=2)
    transcripts = recogniser.many(clips)
    assert transcripts == [recogniser(clip) for clip in clips]
    assert len(set(transcripts)) > 0
    processor = AutoProcessor.from_pretrained(whisper)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    inputs = processor(clips[0], sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(inputs.input_features, language="en", task="transcribe")
    assert transcripts[0] == processor.batch_decode(ids, skip_special_tokens=True)[0].strip()


def test_whisper_hears_the_language_it_is_told(whisper: str) -> None:
    recogniser = Whisper(whisper, device="cpu", language="de")
    recogniser.prepare()
    processor = AutoProcessor.from_pretrained(whisper)
    model = WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    inputs = processor(noise(1.0), sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(inputs.input_features, language="de", task="transcribe")
    assert recogniser(noise(1.0)) == processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    with pytest.raises(ValueError, match="does not support language=zh; allowed: de, en"):
        Whisper(whisper, device="cpu", language="zh").prepare()
    with pytest.raises(ValueError, match="Whisper transcribes de"):
        WordErrors(recogniser)


def test_a_clip_beyond_whispers_window_is_heard_whole(whisper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recogniser = Whisper(whisper, device="cpu", batch_size=4)
    batches: list[list[float]] = []
    transcribe = recogniser._transcribe
    monkeypatch.setattr(
        recogniser, "_transcribe", lambda clips: batches.append([len(c) / 16_000 for c in clips]) or transcribe(clips)
    )
    assert len(recogniser.many([noise(1), noise(31), noise(2)])) == 3
    assert batches == [[1, 2], [31]]


def test_wavlm_is_the_models_own_cosine(wavlm: str) -> None:
    a, b = noise(1.0, 1), noise(1.3, 2)
    metric = WavLMSimilarity(wavlm, device="cpu")
    voice = Utterance("a", "x", load_prompt=lambda: Audio(b, 16_000))
    model = WavLMForXVector.from_pretrained(wavlm).eval()
    with torch.inference_mode():
        vectors = [model(torch.from_numpy(wave)[None]).embeddings[0] for wave in (a, b)]
    expected = torch.cosine_similarity(*vectors, dim=0).item()
    short = Audio(noise(0.05), 16_000)
    rows = metric.score([Audio(a, 16_000), Audio(b, 16_000), Audio(noise(0), 16_000), short], [voice] * 4)
    figures = [row["speaker_similarity"] for row in rows]
    assert figures[:3] == pytest.approx([expected, 1.0, -1.0], abs=1e-5)
    assert -1 <= figures[3] <= 1


def test_the_published_wavlm_is_a_pickle_read_as_tensors_only(tmp_path: Path, wavlm: str) -> None:
    import shutil

    from safetensors.torch import load_file

    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(Path(wavlm) / name, tmp_path)
    torch.save(load_file(Path(wavlm) / "model.safetensors"), tmp_path / "pytorch_model.bin")
    said = [Utterance("a", "x", load_prompt=lambda: Audio(noise(1.0, 2), 16_000))]
    rows = [
        WavLMSimilarity(path, device="cpu").score([Audio(noise(1.0, 1), 16_000)], said)
        for path in (wavlm, str(tmp_path))
    ]
    assert rows[0][0] == pytest.approx(rows[1][0], abs=1e-5)


def test_a_model_that_cannot_be_had_is_named_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *_: str) -> Path:
        raise FileNotFoundError(f"{name}: place it here")

    monkeypatch.setattr(hub, "fetch", offline)
    for metric in (WordErrors(Whisper("openai/whisper-large-v3")), WavLMSimilarity("microsoft/wavlm-base-plus-sv")):
        with pytest.raises(FileNotFoundError, match="place it here"):
            metric.prepare()


def test_nothing_is_warned_of_that_a_caller_cannot_change(whisper: str) -> None:
    """Of English alone as well, whose published generation config has an old key."""
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        Whisper(whisper, device="cpu").many([noise(1.0), noise(31.0)])
        _, model = whisper_module._load(whisper, "float32", "cpu")
        model.generation_config.is_multilingual = False
        model.generation_config.forced_decoder_ids = None  # as _load leaves it
        Whisper(whisper, device="cpu").many([noise(1.0)])
    finally:
        logger.removeHandler(handler)
        whisper_module._load.cache_clear()
    assert heard == []
