import math

import torch

from pcg.codecs.mel import MelSpectrogram


def _tone(frequency: float, samples: int = 16_000) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * frequency * torch.arange(samples) / 16_000)[None]


def test_a_frame_a_hop_and_the_tone_in_its_band():
    mel = MelSpectrogram()
    low, high = mel(_tone(300)), mel(_tone(3000))
    assert low.shape == (1, 100, 100)
    assert low.mean(2).argmax() < high.mean(2).argmax()


def test_griffin_lim_gives_the_tone_back():
    mel = MelSpectrogram()
    audio = mel.griffin_lim(mel(_tone(440)), iterations=16)
    assert audio.shape == (1, 16_000)
    peak = torch.fft.rfft(audio[0]).abs().argmax().item()  # bins are 1 Hz
    assert abs(peak - 440) < 25
    torch.testing.assert_close(mel(audio)[..., 5:-5].mean(), mel(_tone(440))[..., 5:-5].mean(), atol=0.1, rtol=0)


def test_the_linear_spectrum_has_the_bands_it_was_made_from():
    mel = MelSpectrogram()
    generator = torch.Generator().manual_seed(0)
    bands = mel(torch.randn(1, 16_000, generator=generator))
    linear = mel.magnitude(bands)
    assert (linear >= 0).all()
    again = (mel.filters @ linear).clamp_min(1e-5).log() / 4 + 1.5
    assert (again - bands).abs().mean() < 0.05
