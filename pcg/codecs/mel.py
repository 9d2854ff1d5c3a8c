"""Log-mel spectrograms, and back to samples by Griffin-Lim."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

_FLOOR = 1e-5  # amplitude below which a band is silence


def _mel_filters(bands: int, fft: int, sample_rate: int) -> Float[Tensor, "bands bins"]:
    """Triangular filters, equally wide on the HTK mel scale, each summing to 1."""
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, fft // 2 + 1, dtype=torch.float64)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rising, falling).clamp_min(0)
    # a band at the low end can be narrower than a bin, and then takes the nearest bin
    nearest = torch.nn.functional.one_hot((edges[1:-1] / (sample_rate / 2) * (fft // 2)).round().long(), fft // 2 + 1)
    filters = torch.where(filters.sum(1, keepdim=True) > 0, filters, nearest.double())
    return (filters / filters.sum(1, keepdim=True)).float()


def decibels(mel: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Levels in dB of normalised log-mel values, as ``MelSpectrogram`` makes them."""
    return (mel - 1.5) * 4 * 20 / math.log(10)


class MelSpectrogram(nn.Module):
    """Normalised log-mel frames, ``samples // hop`` of them, and their inverse.

    Args:
        sample_rate: Hz.
        hop: samples a frame.
        fft: window and transform length in samples.
        bands: mel bands.
    """

    window: Tensor
    filters: Tensor
    inverse: Tensor

    def __init__(self, sample_rate: int = 16_000, hop: int = 160, fft: int = 640, bands: int = 100) -> None:
        super().__init__()
        self.hop, self.fft = hop, fft
        filters = _mel_filters(bands, fft, sample_rate)
        self.register_buffer("window", torch.hann_window(fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("inverse", torch.linalg.pinv(filters), persistent=False)

    def forward(self, samples: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bands frames"]:
        magnitude = self._stft(samples).abs()[..., : samples.shape[-1] // self.hop]
        return (self.filters @ magnitude).clamp_min(_FLOOR).log() / 4 + 1.5

    def magnitude(self, mel: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch bins frames"]:
        """The non-negative linear spectrum that fits these bands best, by multiplicative updates."""
        bands = ((mel - 1.5) * 4).exp()
        linear = (self.inverse @ bands).clamp_min(1e-4 * bands.amax((1, 2), keepdim=True))
        for _ in range(8):
            linear = linear * (self.filters.T @ (bands / (self.filters @ linear).clamp_min(1e-9)))
            linear = linear / self.filters.sum(0).clamp_min(1e-9)[:, None]
        return linear

    def griffin_lim(self, mel: Float[Tensor, "batch bands frames"], iterations: int) -> Float[Tensor, "batch samples"]:
        """``frames * hop`` samples by fast Griffin-Lim (Perraudin et al. 2013, momentum .99)."""
        magnitude = torch.nn.functional.pad(self.magnitude(mel), (0, 1))
        length = mel.shape[-1] * self.hop
        # fixed random phases: phases of zero make every frame start with a click
        generator = torch.Generator().manual_seed(0)
        angles = torch.rand(magnitude.shape[1:], generator=generator).to(magnitude) * 2 * math.pi
        spectrum = torch.polar(magnitude, angles.expand_as(magnitude))
        previous = torch.zeros_like(spectrum)
        for _ in range(iterations):
            consistent = self._stft(self._istft(spectrum, length))
            ahead = consistent + 0.99 * (consistent - previous)
            previous = consistent
            spectrum = magnitude * ahead / ahead.abs().clamp_min(1e-8)
        return self._istft(spectrum, length)

    def _stft(self, samples: Float[Tensor, "batch samples"]) -> Tensor:
        return torch.stft(
            samples, self.fft, self.hop, window=self.window, center=True, pad_mode="reflect", return_complex=True
        )

    def _istft(self, spectrum: Tensor, length: int) -> Float[Tensor, "batch samples"]:
        return torch.istft(spectrum, self.fft, self.hop, window=self.window, center=True, length=length)
