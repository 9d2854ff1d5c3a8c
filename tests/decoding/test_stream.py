"""Audio made while tokens come, against what the codec makes of all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from pcg.codecs.bundled import BundledCodec
from pcg.codecs.mel import decibels
from pcg.data.bundled import Bundled
from pcg.decoding.stream import Stream, waits
from pcg.types import Audio


class Local:
    """A codec whose samples depend on the frames within ``reach`` of their own: sums of their tokens, and a place."""

    sample_rate, codebook_size = 100, 50

    def __init__(self, frame: int, hop: int = 4) -> None:
        self.frame, self.hop, self._reach = frame, hop, 4 if frame == 1 else 1
        self.decoded = 0

    def encode(self, audio: Sequence[Audio]) -> list[Tensor]:
        raise NotImplementedError

    def codebook(self) -> Tensor:
        raise NotImplementedError

    def decode(self, tokens: Sequence[Tensor]) -> list[Audio]:
        [row] = tokens
        frames = row[: len(row) // self.frame * self.frame].view(-1, self.frame).float().sum(1)
        self.decoded += len(frames)
        if not len(frames):
            return [Audio(np.zeros(0, dtype=np.float32), self.sample_rate)]
        padded = torch.nn.functional.pad(frames, (self._reach, self._reach))
        heard = padded.unfold(0, 2 * self._reach + 1, 1).sum(1)
        samples = heard[:, None] + torch.arange(self.hop)
        return [Audio(samples.flatten().numpy(), self.sample_rate)]


def streamed(
    codec: Local | BundledCodec, voice: Tensor | None, tokens: Tensor, steps: Sequence[int]
) -> list[np.ndarray]:
    """What is given after each step of as many tokens, and at the end."""
    stream, given, at = Stream(codec, voice), [], 0
    while at < len(tokens):
        step = steps[len(given) % len(steps)]
        given.append(stream.feed(tokens[at : at + step].tolist()))
        at += step
    return [*given, stream.finish()]


@pytest.mark.parametrize("frame", [1, 7])
@pytest.mark.parametrize("voice", [None, 1, 40, 333])
@pytest.mark.parametrize("length", [0, 3, 24, 25, 26, 180])
def test_a_codec_that_hears_no_further_gives_what_it_gives_of_the_whole(
    frame: int, voice: int | None, length: int
) -> None:
    generator = torch.Generator().manual_seed(length)
    prompt = None if voice is None else torch.randint(0, 50, (voice,), generator=generator)
    tokens, codec = torch.randint(0, 50, (length,), generator=generator), Local(frame)
    found = np.concatenate(streamed(codec, prompt, tokens, (1, 4, 2)))
    whole_frames = torch.zeros(0, dtype=torch.int64) if prompt is None else prompt[: len(prompt) // frame * frame]
    [whole] = codec.decode([torch.cat([whole_frames, tokens])])
    np.testing.assert_allclose(found, whole.samples[len(whole_frames) // frame * codec.hop :], rtol=1e-5)


def test_the_first_piece_comes_with_its_last_token_and_lies_behind_by_what_is_ahead() -> None:
    codec = Local(1)
    given = streamed(codec, None, torch.arange(60), [1])
    sizes = {place + 1: len(samples) // codec.hop for place, samples in enumerate(given) if len(samples)}
    assert sizes == {25: 20, 50: 25, 61: 15}
    assert codec.decoded == 25 + 50 + 60  # each with at most 50 before it


def test_the_bundled_codec_sounds_as_of_the_whole() -> None:
    """Griffin-Lim finds other phases for other pieces, so that samples differ; the spectrum is within 1.5 dB."""
    codec, [utterance] = BundledCodec("bundled:codec"), Bundled(limit=1)
    voice, tokens = codec.encode([utterance.load_prompt(), utterance.load_reference()])
    [whole] = codec.decode([torch.cat([voice[-20:], tokens[:80]])])
    found = np.concatenate(streamed(codec, voice[-20:], tokens[:80], [4]))
    samples = whole.samples[20 * codec.hop :]
    assert len(found) == len(samples)
    spectra = [decibels(codec._mel(torch.from_numpy(each)[None])) for each in (found, samples)]
    assert (spectra[0] - spectra[1]).abs().mean() < 1.5


def test_what_a_listener_waits_by_hand() -> None:
    """A token a second is heard for 1 second; pieces of 4 tokens, 2 of them ahead; the codec takes a quarter second."""
    known = [(3, 2.0), (6, 3.0), (7, 3.5), (9, 14.0), (10, 15.0)]
    # pieces end with tokens 4, 8 and 10: known at 3, 14 and 15, there at 3.25, 14.5 and 15.75
    # of the first 2 seconds are given: a player has nothing from 5.25 on, then 4 seconds from 14.5 on
    assert waits(known, 4, 2, 1.0, 0.25) == (3.25, 14.5 - 5.25)
    assert waits(known[:1], 4, 2, 1.0, 0.25) == (2.25, 0.0)  # shorter than a piece
    assert waits([(10, 1.0)], 4, 2, 1.0, 0.25) == (1.25, 0.0)
