"""Similarity of the generated voice to the speaker of the voice prompt."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pcg.metrics.pretrained import SAMPLE_RATE, one_torch_thread, require, samples_of
from pcg.types import Audio, Figure, Utterance

_WINDOW, _HOP, _MELS = 400, 160, 40  # 25 ms, 10 ms, bands
_PARTIAL = 160  # frames of a window, as the encoder was trained
_STEP = round(SAMPLE_RATE / 1.3 / _HOP)  # frames between windows: 1.3 windows a second
_COVERAGE = 0.75  # a last window with a smaller share of audio is dropped
SIMILARITY = Figure("similarity", better="higher", ratio=("speaker_similarity", None))
_LOUDNESS = 10 ** (-30 / 20)  # quieter audio is raised to this root mean square


class Encoder(nn.Module):
    """The GE2E speaker encoder (Wan et al. 2018, arXiv 1710.10467) with Resemblyzer's weights and front end.

    One departure from Resemblyzer: long silences are not cut out first, since that needs webrtcvad.
    """

    filters: Tensor  # (frequencies, bands)

    def __init__(self) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        self.lstm = nn.LSTM(_MELS, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        filters = mel_filter_bank(
            _WINDOW // 2 + 1, _MELS, 0.0, SAMPLE_RATE / 2, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    def mel(self, samples: Tensor) -> Tensor:
        """Mel power (not its logarithm), (samples) -> (frames, 40)."""
        window = torch.hann_window(_WINDOW)
        spectrum = torch.stft(samples, _WINDOW, _HOP, window=window, pad_mode="constant", return_complex=True)
        return spectrum.abs().square().T @ self.filters

    @torch.inference_mode()
    def embed(self, samples: np.ndarray) -> Tensor:
        """The unit vector of 16 kHz samples: a mean over windows of 1.6 s, without negative entries."""
        wave = torch.from_numpy(samples)
        loudness = wave.square().mean().sqrt()
        if 0 < loudness < _LOUDNESS:
            wave = wave * (_LOUDNESS / loudness)
        starts = _window_starts(len(wave))
        wave = nn.functional.pad(wave, (0, max(0, (starts[-1] + _PARTIAL) * _HOP - len(wave))))
        windows = self.mel(wave).unfold(0, _PARTIAL, 1)[starts].mT
        _, (hidden, _) = self.lstm(windows)
        partial = nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)
        return nn.functional.normalize(partial.mean(0), dim=0)


def _window_starts(samples: int) -> list[int]:
    """The first frame of each window."""
    frames = -(-(samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _PARTIAL + _STEP + 1), _STEP))
    covered = (samples / _HOP - starts[-1]) / _PARTIAL
    return starts[:-1] if covered < _COVERAGE and len(starts) > 1 else starts


@functools.cache
def encoder() -> Encoder:
    """The encoder, loaded once a process from Resemblyzer's wheel (Apache-2.0), whose code is not imported."""
    path = require("resemblyzer", "speaker similarity") / "pretrained.pt"
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    model = Encoder()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return model.eval()


class SpeakerSimilarity:
    """Cosine between the speaker embeddings of the generated audio and of the voice prompt.

    Unit: cosine. Range: 0 to 1 (embeddings are not negative). Direction: higher is better. Without a prompt the
    reference recording is used; without either there is no similarity. Empty audio scores 0, the bottom of the scale,
    so that silence counts.

    Raises:
        MissingPart: Resemblyzer's weights or transformers are not installed.
    """

    figures: Mapping[str, Figure] = {"speaker_similarity": SIMILARITY}

    def __init__(self) -> None:
        for package in ("resemblyzer", "transformers"):
            require(package, "speaker similarity")

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]:
        with one_torch_thread():
            return similarities(audio, utterances, encoder().embed, empty=0.0)


def similarities(
    audio: Sequence[Audio], utterances: Sequence[Utterance], embed: Callable[[np.ndarray], Tensor], empty: float
) -> list[dict[str, float | str | None]]:
    """The cosine of each clip's embedding and its voice's; None for an utterance without a voice.

    Args:
        embed: 16 kHz samples -> a vector.
        empty: the value of empty audio.
    """

    def similarity(clip: Audio, utterance: Utterance) -> float | None:
        load, samples = utterance.load_prompt or utterance.load_reference, samples_of(clip)
        if load is None:
            return None
        if not len(samples):
            return empty
        return torch.cosine_similarity(embed(samples), embed(samples_of(load())), dim=0).item()

    return [{"speaker_similarity": similarity(*pair)} for pair in zip(audio, utterances, strict=True)]
