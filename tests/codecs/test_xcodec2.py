"""X-codec2 and NeuCodec on folders of their real shape: lengths, features, chunks, and every clip on its own."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from transformers import SeamlessM4TFeatureExtractor

from pcg.codecs.chunks import Chunks
from pcg.codecs.xcodec2 import Xcodec2
from pcg.groups.lattice import Lattice
from pcg.interfaces import Codec
from pcg.types import Audio
from tests.shapes import make_neucodec, make_xcodec2

NEUCODEC = pytest.param(
    "neucodec",
    marks=pytest.mark.skipif(
        Version(transformers.__version__) < Version("5.17"), reason="transformers has no NeuCodec"
    ),
)
MAKE = {"xcodec2": make_xcodec2, "neucodec": make_neucodec}
SIDE = {"xcodec2": 160, "neucodec": 0}  # samples of silence on either side for the features


@pytest.fixture(scope="module", params=["xcodec2", NEUCODEC])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKE[kind](tmp_path_factory.mktemp(kind))


@pytest.fixture(scope="module")
def codec(kind: str, folder: Path) -> Xcodec2:
    return Xcodec2(str(folder), kind)


def noise(samples: int, rate: int = 16_000, seed: int = 0) -> Audio:
    return Audio(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), rate)


def test_lengths_and_rates_are_exact(kind: str, codec: Xcodec2) -> None:
    assert isinstance(codec, Codec)
    rate, hop, lengths = {
        "xcodec2": (16_000, 320, [1, 1, 2, 3, 3, 51, 51]), "neucodec": (24_000, 480, [1, 1, 1, 2, 2, 50, 50])
    }[kind]  # fmt: skip
    assert (codec.sample_rate, codec.hop, codec.codebook_size) == (rate, hop, 65_536)
    tokens = codec.encode([noise(n) for n in (1, 319, 320, 640, 959, 16_000)] + [noise(24_000, 24_000)])
    assert [len(row) for row in tokens] == lengths
    spoken = codec.decode([*tokens, torch.empty(0, dtype=torch.int64)])
    assert [len(audio.samples) for audio in spoken] == [hop * length for length in [*lengths, 0]]
    assert {audio.sample_rate for audio in spoken} == {rate}
    assert {row.dtype for row in tokens} == {torch.int64}
    assert len(torch.cat(tokens).unique()) > 10  # the folder is random, not dead


def test_tokens_depend_on_nothing_but_the_clip(codec: Xcodec2) -> None:
    clips = [noise(n, seed=seed) for seed, n in enumerate((5_000, 9_000, 5_100, 5_100))]
    together = codec.encode(clips)
    for clip, tokens in zip(clips, together, strict=True):
        assert torch.equal(codec.encode([clip])[0], tokens)
    for tokens, audio in zip(together, codec.decode(together), strict=True):
        np.testing.assert_allclose(codec.decode([tokens])[0].samples, audio.samples, atol=1e-6)


def test_equals_transformers_on_the_features_it_was_trained_on(kind: str, codec: Xcodec2, folder: Path) -> None:
    clip = noise(8_000)
    padded = np.pad(clip.samples, (0, 320))
    wave = np.pad(padded, SIDE[kind])
    features = SeamlessM4TFeatureExtractor()(wave, sampling_rate=16_000, return_tensors="pt").input_features
    name = {"xcodec2": "Xcodec2Model", "neucodec": "NeuCodecModel"}[kind]
    model = getattr(transformers, name).from_pretrained(folder).eval()
    with torch.inference_mode():
        torch.testing.assert_close(codec._fbank(torch.from_numpy(wave)[None]), features, atol=1e-4, rtol=0)
        codes = model.encode(torch.from_numpy(padded)[None, None], features).audio_codes[0, 0]
        expected = model.decode(codes[None, None]).audio_values[0, 0].clamp(-1, 1)
    assert torch.equal(codec.encode([clip])[0], codes.long())
    np.testing.assert_allclose(codec.decode([codes.long()])[0].samples, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("length", [1, 99, 100, 101, 190, 191, 500])
def test_pieces_cover_everything_once_and_overlap(length: int) -> None:
    pieces = Chunks(longest=100, overlap=10, batch_size=1).pieces(length)
    assert pieces[0][0] == 0
    assert pieces[-1][1] == length
    assert all(end - start <= 100 for start, end in pieces)
    for (_, end), (start, _) in itertools.pairwise(pieces):
        assert end - start == 10


@pytest.mark.parametrize("overlap", [0.0, 0.2])
def test_chunks_join_without_a_seam(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, overlap: float) -> None:
    codec = Xcodec2(str(folder), kind, chunk_seconds=1.0, overlap_seconds=overlap)
    ahead = codec._kind.ahead
    # a coder without context: any chunking must give the same
    monkeypatch.setattr(
        codec, "_encode", lambda waves: waves.unfold(1, 320, 320)[..., 0].mul(1000).long()[:, : -ahead or None]
    )
    monkeypatch.setattr(codec, "_decode", lambda tokens: tokens.repeat_interleave(codec.hop, 1) / 1000)
    clip = noise(16_000 * 3 + 123)
    tokens = codec.encode([clip, noise(500)])[0]
    padded = np.pad(clip.samples, (0, 320))
    assert tokens.tolist() == [int(x * 1000) for x in torch.from_numpy(padded)[: len(tokens) * 320 : 320]]
    audio = codec.decode([tokens])[0].samples
    np.testing.assert_allclose(audio, np.repeat(tokens.numpy() / 1000, codec.hop), atol=1e-6)


def test_long_clips_are_coded_in_pieces_of_bounded_size(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Xcodec2(str(folder), kind, chunk_seconds=0.5, overlap_seconds=0.1, batch_size=2)
    sizes: list[tuple[int, ...]] = []
    encode = codec._encode
    monkeypatch.setattr(codec, "_encode", lambda waves: sizes.append(tuple(waves.shape)) or encode(waves))
    tokens = codec.encode([noise(32_000)])[0]
    assert len(tokens) == 101 - codec._kind.ahead
    assert max(rows for rows, _ in sizes) == 2
    assert max(samples for _, samples in sizes) == 8_000 + 320 * codec._kind.ahead
    assert len(codec.decode([tokens])[0].samples) == len(tokens) * codec.hop


def test_the_codebook_is_the_lattice_that_groups_are_built_on(codec: Xcodec2) -> None:
    """Tokens whose digits differ by one step are each other's neighbours, in the codec and in ``Lattice``."""
    book = codec.codebook()
    assert book.shape == (65_536, 8)
    step = (book[1] - book[0]).abs().sum()
    table = Lattice(levels=[4] * 8, radius=1).build(torch.zeros(65_537, 1), None)
    for token in (0, 12_345, 65_535):
        near = ((book - book[token]).abs().sum(1) < 1.5 * step).nonzero()[:, 0].tolist()
        assert table.members[table.member_starts[token] : table.member_starts[token + 1]].tolist() == near


def test_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "xcodec"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="only pickled weights"):
        Xcodec2(str(tmp_path))
    make_xcodec2(tmp_path, levels=(2, 2))
    with pytest.raises(ValueError, match=r"model_type='xcodec2', not 'neucodec'.*codec=xcodec2"):
        Xcodec2(str(tmp_path), "neucodec")
    (tmp_path / "config.json").write_text('{"model_type": "xcodec"}')
    with pytest.raises(ValueError, match=r"model_type='xcodec', not 'xcodec2'.*HKUSTAudio/xcodec2-hf"):
        Xcodec2(str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", type(sys)("transformers"))
    with pytest.raises(ImportError, match=r"codec=neucodec needs transformers 5\.17 or later"):
        Xcodec2(str(tmp_path), "neucodec")


def test_too_much_overlap_is_named(kind: str, folder: Path) -> None:
    with pytest.raises(ValueError, match="overlap_seconds=2: allowed from 0 to half of chunk_seconds=3"):
        Xcodec2(str(folder), kind, chunk_seconds=3, overlap_seconds=2)
