"""The sound of each token of a codec, decoded in the middle of real speech.

A token has no sound of its own, because a codec's decoder also reads its neighbours. So every token is decoded in the
same contexts, taken from recordings, and what comes out around it is its sound.
"""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from pcg.groups.cache import cached_tensor, describe
from pcg.interfaces import Codec, Dataset, Spectral

SIDE = 8  # tokens of context on each side
AROUND = 2  # tokens on each side whose sound counts
DIMS = 512  # of a row; squared distances between rows are then off by 6 %
_BATCH = 256
_BANDS, _FLOOR = 40, 1e-4  # amplitude under which a band is silence: -80 dB


def contexts_of(voices: Dataset, codec: Codec, count: int) -> Int[Tensor, "contexts length"]:
    """Stretches of ``2 SIDE + 1`` tokens from recordings: voice prompts, or reference recordings where there are none.

    The recordings of the first ``count`` utterances are used, repeatedly if there are fewer, each cut at another place.

    Raises:
        ValueError: there is no recording, or one is too short.
    """
    recordings = [
        load for spoken in itertools.islice(voices, count) if (load := spoken.load_prompt or spoken.load_reference)
    ]
    if not recordings:
        raise ValueError("sound: the dataset `voices` has no recordings; name one with voice prompts or recordings")
    contexts, length = [], 2 * SIDE + 1
    for index, load in enumerate(itertools.islice(itertools.cycle(recordings), count)):
        audio = load()
        tokens = codec.encode([audio])[0].cpu()
        if len(tokens) < length:
            raise ValueError(
                f"sound: {audio.source or 'a recording'} of `voices` has {len(tokens)} tokens; {length} are needed"
            )
        start = (len(tokens) - length) * (index + 1) // (count + 1)
        contexts.append(tokens[start : start + length])
    return torch.stack(contexts)


def cached_sounds(
    codec: Codec, codec_name: str, contexts: Int[Tensor, "contexts length"], cache: Path | None
) -> Float[Tensor, "tokens dims"]:
    """``sounds_of``, read from the cache if it was computed before.

    Args:
        codec_name: identifies the codec, its weights and settings.
        cache: folder; None: not cached.
    """
    return cached_tensor(f"heard {codec_name} {describe(contexts)}", lambda: sounds_of(codec, contexts), cache)


@torch.inference_mode()
def sounds_of(codec: Codec, contexts: Int[Tensor, "contexts length"]) -> Float[Tensor, "tokens dims"]:
    """One row for each token; the squared distance of two rows is the mean squared difference of their sound in dB.

    The mean is over contexts, frames and bands. Side by side these would be thousands of numbers a token, so each
    context is added through a random projection of its own (Johnson and Lindenstrauss 1984), unless all of them fit
    into ``DIMS``. Rows are float16.
    """
    spectra = codec.spectra if isinstance(codec, Spectral) else partial(log_mel, codec)
    generator = torch.Generator().manual_seed(0)
    rows, projection = torch.empty(0), torch.empty(0)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sounds of tokens", total=len(contexts) * codec.codebook_size)
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
    """The projection of one context, scaled so that squared distances are means."""
    total = contexts * values
    if total <= DIMS:
        return torch.eye(total)[index * values : (index + 1) * values] / total**0.5
    return torch.randn(values, DIMS, generator=generator) / (DIMS * total) ** 0.5


def log_mel(codec: Codec, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length values"]:
    """The spectra of any codec's tokens, from the samples that it decodes: 40 mel bands every 10 ms, windows of 40 ms.

    The frames of a token stand side by side, in dB; silence is -80.
    """
    from transformers.audio_utils import mel_filter_bank  # takes a second to import

    rate, hop = codec.sample_rate, codec.hop
    frames, window = max(1, round(100 * hop / rate)), rate // 25
    samples = torch.from_numpy(np.stack([audio.samples for audio in codec.decode(list(tokens))]))
    hann = torch.hann_window(window)
    spectrum = torch.stft(samples.float(), window, hop // frames, window=hann, pad_mode="constant", return_complex=True)
    power = (2 * spectrum / hann.sum()).abs().square()
    bank = mel_filter_bank(window // 2 + 1, _BANDS, 0, rate / 2, rate, norm=None, mel_scale="htk")
    bands = (power.transpose(1, 2) @ torch.from_numpy(bank).float()).clamp(min=_FLOOR**2)
    decibels = 10 * bands.log10()
    return decibels[:, : tokens.shape[1] * frames].reshape(*tokens.shape, frames * _BANDS)
