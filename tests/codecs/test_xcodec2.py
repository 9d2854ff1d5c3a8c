"""X-codec2 on a folder of its real shape: lengths, features, chunks, and every row on its own."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SeamlessM4TFeatureExtractor, Xcodec2Model

from pcg.codecs.chunks import Chunks
from pcg.codecs.xcodec2 import Xcodec2
from pcg.groups.lattice import Lattice
from pcg.types import Audio
from tests.shapes import make_xcodec2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_xcodec2(tmp_path_factory.mktemp("xcodec2"))


@pytest.fixture(scope="module")
def codec(folder: Path) -> Xcodec2:
    return Xcodec2(str(folder))


def noise(samples: int, rate: int = 16_000, seed: int = 0) -> Audio:
    return Audio(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), rate)


def test_lengths_are_exact(codec: Xcodec2) -> None:
    clips = [noise(n) for n in (1, 319, 320, 321, 16_000)] + [noise(24_000, 24_000)]
    tokens = codec.encode(clips)
    assert [len(row) for row in tokens] == [1, 1, 2, 2, 51, 51]
    assert [len(audio.samples) for audio in codec.decode(tokens)] == [320 * len(row) for row in tokens]
    assert [len(audio.samples) for audio in codec.decode([torch.empty(0, dtype=torch.int64)])] == [0]
    assert {row.dtype for row in tokens} == {torch.int64}
    assert len(torch.cat(tokens).unique()) > 10  # the folder is random, not dead


def test_tokens_depend_on_nothing_but_the_clip(codec: Xcodec2) -> None:
    clips = [noise(n, seed=seed) for seed, n in enumerate((5_000, 9_000, 5_100, 5_100))]
    together = codec.encode(clips)
    for clip, tokens in zip(clips, together, strict=True):
        assert torch.equal(codec.encode([clip])[0], tokens)
    for tokens, audio in zip(together, codec.decode(together), strict=True):
        np.testing.assert_allclose(codec.decode([tokens])[0].samples, audio.samples, atol=1e-6)


def test_equals_transformers_on_the_features_it_was_trained_on(codec: Xcodec2, folder: Path) -> None:
    clip = noise(8_000)
    padded = np.pad(clip.samples, (0, 320))
    features = SeamlessM4TFeatureExtractor()(
        np.pad(padded, (160, 160)), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    wave = torch.from_numpy(padded)[None, None]
    model = Xcodec2Model.from_pretrained(folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            codec._fbank(torch.from_numpy(np.pad(padded, (160, 160)))[None]), features, atol=1e-4, rtol=0
        )
        codes = model.encode(wave, features).audio_codes[0, 0]
        assert torch.equal(codec.encode([clip])[0], codes.long())
        expected = model.decode(codes[None, None]).audio_values[0, 0].clamp(-1, 1)
    np.testing.assert_allclose(codec.decode([codes.long()])[0].samples, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 190, 191, 500])
def test_pieces_cover_everything_once_and_overlap(length: int) -> None:
    pieces = Chunks(longest=100, overlap=10, batch_size=1).pieces(length)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == length
    assert all(end - start <= 100 for start, end in pieces)
    for (_, end), (start, _) in itertools.pairwise(pieces):
        assert end - start == 10


def test_chunks_join_without_a_seam(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Xcodec2(str(folder), chunk_seconds=1.0, overlap_seconds=0.2)
    # a coder without context: whatever the chunking, it must give the same
    monkeypatch.setattr(codec, "_encode", lambda waves: waves.unfold(1, 320, 320)[..., 0].mul(1000).long())
    monkeypatch.setattr(codec, "_decode", lambda tokens: tokens.repeat_interleave(320, 1) / 1000)
    clip = noise(16_000 * 3 + 123)
    tokens = codec.encode([clip, noise(500)])
    padded = np.pad(clip.samples, (0, 320))
    assert tokens[0].tolist() == [int(x * 1000) for x in torch.from_numpy(padded)[: len(tokens[0]) * 320 : 320]]
    audio = codec.decode([tokens[0]])[0].samples
    np.testing.assert_allclose(audio, np.repeat(tokens[0].numpy() / 1000, 320), atol=1e-6)


def test_long_clips_are_coded_in_pieces_of_bounded_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Xcodec2(str(folder), chunk_seconds=0.5, overlap_seconds=0.1, batch_size=2)
    sizes: list[tuple[int, ...]] = []
    encode = codec._encode
    monkeypatch.setattr(codec, "_encode", lambda waves: sizes.append(tuple(waves.shape)) or encode(waves))
    tokens = codec.encode([noise(32_000)])[0]
    assert len(tokens) == 101
    assert max(rows for rows, _ in sizes) == 2
    assert max(samples for _, samples in sizes) == 8_000
    assert len(codec.decode([tokens])[0].samples) == 101 * 320


def test_the_codebook_is_the_lattice_that_groups_are_built_on(codec: Xcodec2) -> None:
    """Tokens whose digits differ by one step are each other's neighbours, in the codec and in ``Lattice``."""
    book = codec.codebook()
    assert book.shape == (65_536, 8)
    step = (book[1] - book[0]).abs().sum()
    table = Lattice(levels=[4] * 8, radius=1).build(torch.zeros(65_537, 1), None)
    for token in (0, 12_345, 65_535):
        near = ((book - book[token]).abs().sum(1) < 1.5 * step).nonzero()[:, 0].tolist()
        assert (table.coarse(torch.nn.functional.one_hot(torch.tensor(token), 65_537).float()) > 0).nonzero()[
            :, 0
        ].tolist() == near  # the groups that the token is in


def test_what_is_not_xcodec2_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "xcodec"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights only"):
        Xcodec2(str(tmp_path))
    make_xcodec2(tmp_path, levels=(2, 2))
    (tmp_path / "config.json").write_text('{"model_type": "xcodec"}')
    with pytest.raises(ValueError, match=r"model_type='xcodec', not 'xcodec2'.*HKUSTAudio/xcodec2-hf"):
        Xcodec2(str(tmp_path))


def test_too_much_overlap_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="overlap_seconds=2: must be from 0 to half of chunk_seconds=3"):
        Xcodec2(str(folder), chunk_seconds=3, overlap_seconds=2)
