import shutil

import numpy as np
import pytest
import torch

from pcg.codecs.bundled import BundledCodec
from pcg.data.bundled import Bundled
from pcg.models.checkpoint import resolve_folder
from pcg.types import Audio


@pytest.fixture(scope="module")
def codec():
    return BundledCodec("bundled:codec")


@pytest.fixture(scope="module")
def clip():
    return next(iter(Bundled(limit=1))).load_reference()


def test_lengths_are_exact(codec, clip):
    (tokens,) = codec.encode([clip])
    assert len(tokens) == len(clip.samples) // codec.hop
    assert tokens.min() >= 0
    assert tokens.max() < codec.codebook_size
    (audio,) = codec.decode([tokens])
    assert len(audio.samples) == len(tokens) * codec.hop
    assert audio.sample_rate == codec.sample_rate
    assert np.abs(audio.samples).max() <= 1


def test_other_rates_are_resampled(codec, clip):
    slow = Audio(clip.samples[::2], clip.sample_rate // 2)
    (tokens,) = codec.encode([slow])
    assert abs(len(tokens) - len(clip.samples) // codec.hop) <= 1


def test_no_tokens_are_no_audio(codec):
    (audio,) = codec.decode([torch.zeros(0, dtype=torch.int64)])
    assert len(audio.samples) == 0


def test_resynthesis_is_nearer_than_another_clip(codec, clip):
    mel = codec._mel
    (tokens,) = codec.encode([clip])
    right, wrong = codec.decode([tokens, tokens.flip(0)])
    want = mel(torch.from_numpy(clip.samples)[None])
    length = mel(torch.from_numpy(right.samples)[None]).shape[-1]
    near, far = ((mel(torch.from_numpy(a.samples)[None]) - want[..., :length]).abs().mean() for a in (right, wrong))
    assert near < 0.5 * far


def test_a_row_decodes_alike_in_any_batch(codec, clip):
    (tokens,) = codec.encode([clip])
    alone = codec.decode([tokens])[0].samples
    both = codec.decode([tokens[:20], tokens])[1].samples
    np.testing.assert_array_equal(alone, both)


def test_the_codebook_is_one_vector_a_token(codec):
    assert codec.codebook().unique(dim=0).shape == (codec.codebook_size, 6)


@pytest.mark.parametrize(("samples", "rate"), [(0, 16_000), (1, 16_000), (320, 16_000), (480, 24_000)])
def test_a_clip_that_is_too_short_is_named(codec, samples, rate):
    short = Audio(np.zeros(samples, np.float32), rate, "voices/me.wav")
    with pytest.raises(
        ValueError, match=rf"^voices/me\.wav lasts {1000 * samples / rate:g} ms; this codec needs 20\.1 ms"
    ):
        codec.encode([short])
    assert len(codec.encode([Audio(np.zeros(321, np.float32), 16_000)])[0]) == 1


def test_a_broken_folder_is_named(tmp_path):
    shutil.copytree(resolve_folder("bundled:codec"), tmp_path / "codec")
    file = tmp_path / "codec" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"codec/model\.safetensors is truncated or not safetensors"):
        BundledCodec(str(tmp_path / "codec"))
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"codec holds neither model\.safetensors nor"):
        BundledCodec(str(tmp_path / "codec"))
