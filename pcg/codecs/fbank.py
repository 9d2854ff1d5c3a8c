"""Kaldi's log-mel filter bank, the input of w2v-BERT 2.0, on any device."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

_BANDS, _WINDOW, _HOP, _FFT = 80, 400, 160, 512  # 25 ms windows every 10 ms at 16 kHz
_FLOOR = 1.192092955078125e-07  # Kaldi's: float32's epsilon
_PREEMPHASIS = 0.97


class Fbank(nn.Module):
    """(batch, samples) at 16 kHz in [-1, 1] -> (batch, frames // 2, 160): two frames side by side, normalised.

    Kaldi's defaults (Povey window, pre-emphasis, 20 to 8000 Hz, no dither), each band then of mean 0 and variance 1
    over the clip. A test holds it to transformers' ``SeamlessM4TFeatureExtractor``.
    """

    filters: Tensor  # (frequencies, bands)
    window: Tensor

    def __init__(self) -> None:
        from transformers.audio_utils import mel_filter_bank

        super().__init__()
        filters = mel_filter_bank(
            _FFT // 2 + 1, _BANDS, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True
        )
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        self.register_buffer("window", torch.hann_window(_WINDOW, periodic=False) ** 0.85, persistent=False)

    def forward(self, waves: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch time features"]:
        frames = (waves * 2**15).unfold(1, _WINDOW, _HOP)  # Kaldi counts in 16-bit units
        frames = frames - frames.mean(-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        spectrum = torch.fft.rfft((frames - _PREEMPHASIS * before) * self.window, _FFT).abs().square()
        mel = (spectrum @ self.filters).clamp(min=_FLOOR).log()
        mel = (mel - mel.mean(1, keepdim=True)) / (mel.var(1, keepdim=True) + 1e-7).sqrt()
        return mel[:, : mel.shape[1] // 2 * 2].reshape(len(mel), -1, 2 * _BANDS)
