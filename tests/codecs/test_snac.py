"""SNAC on a folder of its real shape: frames of seven tokens, their order, chunks, and every clip on its own."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pcg.codecs.snac import Snac
from pcg.interfaces import Codec
from pcg.types import Audio
from tests.shapes import make_snac

snac = pytest.importorskip("snac")
FRAME = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_snac(tmp_path_factory.mktemp("snac"))


@pytest.fixture(scope="module")
def codec(folder: Path) -> Snac:
    return Snac(str(folder))


def noise(samples: int, rate: int = 24_000, seed: int = 0) -> Audio:
    return Audio(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), rate)


def reference(folder: Path) -> torch.nn.Module:
    return snac.SNAC.from_pretrained(str(folder)).eval()


def test_a_frame_is_seven_tokens_and_85_ms(codec: Snac) -> None:
    assert isinstance(codec, Codec)
    assert (codec.sample_rate, codec.frame, codec.hop, codec.codebook_size) == (24_000, 7, FRAME, 28_672)
    tokens = codec.encode([noise(n) for n in (1, FRAME, FRAME + 1)] + [noise(32_000, 16_000)])
    assert [len(row) for row in tokens] == [7, 7, 14, 7 * 24]
    spoken = codec.decode([*tokens, torch.empty(0, dtype=torch.int64), tokens[2][:13]])
    assert [len(audio.samples) for audio in spoken] == [FRAME * n for n in (1, 1, 2, 24, 0, 1)]
    assert len(torch.cat(tokens).unique()) > 20  # the folder is random, not dead


def test_tokens_are_the_packages_codes_in_orpheus_order(codec: Snac, folder: Path) -> None:
    clip = noise(3 * FRAME)
    with torch.inference_mode():
        first, second, third = (row[0] for row in reference(folder).encode(torch.from_numpy(clip.samples)[None, None]))
    frames = [
        (first[i], second[2 * i], *third[4 * i : 4 * i + 2], second[2 * i + 1], *third[4 * i + 2 : 4 * i + 4])
        for i in range(3)
    ]
    expected = [int(code) + 4096 * slot for frame in frames for slot, code in enumerate(frame)]
    assert codec.encode([clip])[0].tolist() == expected


def test_audio_is_what_the_package_makes_with_the_same_noise(codec: Snac, folder: Path) -> None:
    clip = noise(4 * FRAME)
    model = reference(folder)
    with torch.inference_mode():
        codes = model.encode(torch.from_numpy(clip.samples)[None, None])
        torch.manual_seed(0)
        expected = model.decode(codes)[0, 0].clamp(-1, 1)
    np.testing.assert_allclose(codec.decode(codec.encode([clip]))[0].samples, expected.numpy(), atol=1e-6)


def test_a_clip_depends_on_nothing_but_its_tokens(codec: Snac) -> None:
    rows = codec.encode([noise(n, seed=n) for n in (3_000, 9_000, 9_000, 20_000)])
    together = codec.decode(rows)
    torch.manual_seed(5)  # nor on what was drawn elsewhere
    state = torch.get_rng_state()
    for row, audio in zip(rows, together, strict=True):
        np.testing.assert_array_equal(codec.decode([row])[0].samples, audio.samples)
    assert torch.equal(torch.get_rng_state(), state)


def test_long_clips_are_joined_from_chunks(folder: Path) -> None:
    codec = Snac(str(folder), chunk_seconds=8 * FRAME / 24_000, overlap_seconds=2 * FRAME / 24_000)
    tokens = codec.encode([noise(20 * FRAME)])[0]
    assert len(tokens) == 140
    assert codec._in_slot(tokens.view(-1, 7)).all()
    assert len(codec.decode([tokens])[0].samples) == 20 * FRAME


def test_a_frame_with_a_token_of_another_slot_is_silent_and_told(codec: Snac, caplog: pytest.LogCaptureFixture) -> None:
    tokens = codec.encode([noise(3 * FRAME)])[0].clone()
    tokens[8] = 5  # a token of slot 0 in slot 1 of the second frame
    with caplog.at_level(logging.WARNING):
        samples = codec.decode([tokens])[0].samples
    assert "1 of 3 frames have a token of another slot and are silent" in caplog.text
    assert not samples[FRAME : 2 * FRAME].any()
    assert samples[:FRAME].any()
    assert samples[2 * FRAME :].any()


def test_the_codebook_has_a_vector_for_each_token(codec: Snac) -> None:
    book = codec.codebook()
    assert book.shape == (28_672, 8)
    assert torch.equal(book[4096 : 2 * 4096], book[4 * 4096 : 5 * 4096])  # slots of the second level
    assert not torch.equal(book[:4096], book[4096 : 2 * 4096])


def test_what_is_not_orpheus_snac_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("[4, 2, 1]", "[8, 4, 2, 1]"))
    with pytest.raises(ValueError, match=r"vq_strides=\[8, 4, 2, 1\]; seven tokens a frame need \[4, 2, 1\]"):
        Snac(str(tmp_path))
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        Snac(str(tmp_path))
    torch.save({"run": test_what_is_not_orpheus_snac_is_refused}, tmp_path / "pytorch_model.bin")  # code, not tensors
    with pytest.raises(ValueError, match=r"does not hold the weights that config\.json describes"):
        Snac(str(tmp_path))
    monkeypatch.setitem(sys.modules, "snac", None)
    with pytest.raises(ImportError, match=r"codec=snac needs the package snac: pip install 'pcg\[snac\]'"):
        Snac(str(folder))


def test_safetensors_go_first(folder: Path, tmp_path: Path, codec: Snac) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(torch.load(folder / "pytorch_model.bin", weights_only=True), tmp_path / "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_text("torn")
    clip = noise(FRAME)
    assert torch.equal(Snac(str(tmp_path)).encode([clip])[0], codec.encode([clip])[0])
