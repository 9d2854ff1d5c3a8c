"""What a codec makes of each of its tokens, heard in the middle of real speech.

A token has no sound of its own: a codec's decoder looks at its neighbours. So every token is decoded at the same
places of the same recordings, and what comes out around it is its sound.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pcg.groups.cache import describe, kept_tensor
from pcg.interfaces import Codec, Dataset, Spectral

SIDE = 8  # tokens of context on each side
AROUND = 2  # tokens on each side that a token is heard in
DIMS = 512  # of a row: a squared distance between rows then is off by 6 %
_BATCH = 256
_BANDS, _FLOOR = 40, 1e-4  # amplitude under which a band is silence: -80 dB


def contexts_of(voices: Dataset, codec: Codec, count: int) -> Int[Tensor, "contexts length"]:
    """Stretches of ``2 SIDE + 1`` tokens, one a recording: voice prompts, or what was said where there is none.

    The recordings are those of the first ``count`` utterances, round and round if there are fewer, each cut at another
    place.

    Raises:
        ValueError: no recording, or one that is too short.
    """
    recordings = [load for said in itertools.islice(voices, count) if (load := said.load_prompt or said.load_reference)]
    if not recordings:
        raise ValueError("sound: the dataset of `voices` has no recordings to hear tokens in")
    contexts, length = [], 2 * SIDE + 1
    for index, load in enumerate(itertools.islice(itertools.cycle(recordings), count)):
        audio = load()
        tokens = codec.encode([audio])[0].cpu()
        if len(tokens) < length:
            raise ValueError(
                f"sound: {audio.source or 'a recording'} of `voices` is of {len(tokens)} tokens, want {length} or more"
            )
        start = (len(tokens) - length) * (index + 1) // (count + 1)
        contexts.append(tokens[start : start + length])
    return torch.stack(contexts)


def kept_sounds(
    codec: Codec, codec_name: str, places: Int[Tensor, "contexts length"], cache: Path | None
) -> Float[Tensor, "tokens dims"]:
    """``heard``, or what was heard before with this codec at these places.

    Args:
        codec_name: tells this codec, its weights and settings, from others.
        cache: folder that keeps what was heard; None to keep nothing.
    """
    return kept_tensor(f"heard {codec_name} {describe(places)}", lambda: heard(codec, places), cache)


@torch.inference_mode()
def heard(codec: Codec, contexts: Int[Tensor, "contexts length"]) -> Float[Tensor, "tokens dims"]:
    """A row a token: the squared distance of two rows is the mean squared difference of what is heard, in dB squared.

    The mean is over contexts, frames and bands. All of that side by side would be thousands of numbers a token, so
    each context is added through a random projection of its own (Johnson and Lindenstrauss 1984), unless all of it
    fits into ``DIMS``. Memory is that of the rows, which are float16.
    """
    spectra = codec.spectra if isinstance(codec, Spectral) else LogMel(codec)
    generator = torch.Generator().manual_seed(0)
    rows, projection = torch.empty(0), torch.empty(0)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("what tokens sound like", total=len(contexts) * codec.codebook_size)
        for index, context in enumerate(contexts):
            for tokens in torch.arange(codec.codebook_size).split(_BATCH):
                swapped = context.repeat(len(tokens), 1)
                swapped[:, SIDE] = tokens
                values = spectra(swapped)[:, SIDE - AROUND : SIDE + AROUND + 1].flatten(1).float().cpu()
                if not len(rows):
                    rows = torch.zeros(codec.codebook_size, min(DIMS, len(contexts) * values.shape[1]))
                if not tokens[0]:
                    projection = _projection(index, len(contexts), values.shape[1], generator)
                rows[tokens] += values @ projection
                progress.advance(task, len(tokens))
    return (rows - rows.mean(0)).half()


def _projection(index: int, contexts: int, values: int, generator: torch.Generator) -> Float[Tensor, "values dims"]:
    """Of one context, scaled so that squared distances are means."""
    total = contexts * values
    if total <= DIMS:
        return torch.eye(total)[index * values : (index + 1) * values] / total**0.5
    return torch.randn(values, DIMS, generator=generator) / (DIMS * total) ** 0.5


@dataclass(frozen=True)
class LogMel:
    """Spectra of any codec: of the samples that it decodes, in 40 mel bands every 10 ms, windows of 40 ms."""

    codec: Codec

    def __call__(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length values"]:
        """Frames of a token side by side, in dB, silence at -80."""
        from transformers.audio_utils import mel_filter_bank  # takes a second to import

        rate, hop = self.codec.sample_rate, self.codec.hop
        frames, window = max(1, round(100 * hop / rate)), rate // 25
        samples = torch.from_numpy(np.stack([audio.samples for audio in self.codec.decode(list(tokens))]))
        hann = torch.hann_window(window)
        spectrum = torch.stft(
            samples.float(), window, hop // frames, window=hann, pad_mode="constant", return_complex=True
        )
        power = (2 * spectrum / hann.sum()).abs().square()
        bank = mel_filter_bank(window // 2 + 1, _BANDS, 0, rate / 2, rate, norm=None, mel_scale="htk")
        bands = (power.transpose(1, 2) @ torch.from_numpy(bank).float()).clamp(min=_FLOOR**2)
        decibels = 10 * bands.log10()
        return decibels[:, : tokens.shape[1] * frames].reshape(*tokens.shape, frames * _BANDS)
