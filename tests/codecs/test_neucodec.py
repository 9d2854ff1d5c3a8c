"""NeuCodec on a folder of its real shape: lengths, features, chunks, and every clip on its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor

from pcg.codecs.xcodec2 import Xcodec2
from pcg.interfaces import Codec
from pcg.types import Audio
from tests.shapes import make_neucodec, make_xcodec2

transformers = pytest.importorskip("transformers", minversion="5.17")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_neucodec(tmp_path_factory.mktemp("neucodec"))


@pytest.fixture(scope="module")
def codec(folder: Path) -> Xcodec2:
    return Xcodec2(str(folder), "neucodec")


def noise(samples: int, rate: int = 16_000, seed: int = 0) -> Audio:
    return Audio(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), rate)


def test_it_reads_16_khz_and_speaks_24(codec: Xcodec2) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.hop, codec.codebook_size) == (24_000, 480, 65_536)
    clips = [noise(n) for n in (1, 319, 320, 640, 959, 16_000)] + [noise(24_000, 24_000)]
    tokens = codec.encode(clips)
    assert [len(row) for row in tokens] == [1, 1, 1, 2, 2, 50, 50]
    spoken = codec.decode([*tokens, torch.empty(0, dtype=torch.int64)])
    assert [len(audio.samples) for audio in spoken] == [480 * len(row) for row in tokens] + [0]
    assert {audio.sample_rate for audio in spoken} == {24_000}
    assert {row.dtype for row in tokens} == {torch.int64}
    assert len(torch.cat(tokens).unique()) > 10  # the folder is random, not dead


def test_equals_transformers_on_the_features_it_was_trained_on(codec: Xcodec2, folder: Path) -> None:
    clip = noise(8_000)
    padded = np.pad(clip.samples, (0, 320))
    features = SeamlessM4TFeatureExtractor()(padded, sampling_rate=16_000, return_tensors="pt").input_features
    model = transformers.NeuCodecModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        codes = model.encode(torch.from_numpy(padded)[None, None], features).audio_codes[0, 0]
        expected = model.decode(codes[None, None]).audio_values[0, 0].clamp(-1, 1)
    assert torch.equal(codec.encode([clip])[0], codes.long())
    np.testing.assert_allclose(codec.decode([codes.long()])[0].samples, expected.numpy(), atol=1e-6)


def test_tokens_depend_on_nothing_but_the_clip(codec: Xcodec2) -> None:
    clips = [noise(n, seed=seed) for seed, n in enumerate((5_000, 9_000, 5_100, 5_100))]
    for clip, tokens in zip(clips, codec.encode(clips), strict=True):
        assert torch.equal(codec.encode([clip])[0], tokens)


@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_chunks_join_without_a_seam(folder: Path, monkeypatch: pytest.MonkeyPatch, overlap: float) -> None:
    codec = Xcodec2(str(folder), "neucodec", chunk_seconds=1.0, overlap_seconds=overlap)
    # a coder without context: whatever the chunking, it must give the same
    monkeypatch.setattr(codec, "_encode", lambda waves: waves.unfold(1, 320, 320)[:, :-1, 0].mul(1000).long())
    monkeypatch.setattr(codec, "_decode", lambda tokens: tokens.repeat_interleave(480, 1) / 1000)
    clip = noise(16_000 * 3 + 123)
    tokens = codec.encode([clip, noise(500)])
    assert tokens[0].tolist() == [int(x * 1000) for x in torch.from_numpy(clip.samples)[: 150 * 320 : 320]]
    audio = codec.decode([tokens[0]])[0].samples
    np.testing.assert_allclose(audio, np.repeat(tokens[0].numpy() / 1000, 480), atol=1e-6)


def test_what_is_not_neucodec_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_xcodec2(tmp_path, levels=(2, 2))
    with pytest.raises(ValueError, match=r"model_type='xcodec2', not 'neucodec'.*codec=xcodec2"):
        Xcodec2(str(tmp_path), "neucodec")
    monkeypatch.setitem(sys.modules, "transformers", type(sys)("transformers"))
    with pytest.raises(ImportError, match=r"codec=neucodec needs transformers 5\.17 or later"):
        Xcodec2(str(tmp_path), "neucodec")
