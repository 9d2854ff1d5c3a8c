"""The bundled codec: log-mel frames <-> FSQ tokens by ConvNeXt stacks, samples by Griffin-Lim.

16 kHz, 50 tokens a second, one codebook, as X-codec2 (arXiv 2502.04128), but much smaller.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn

from pcg.codecs.chunks import at_rate
from pcg.codecs.fsq import FSQ
from pcg.codecs.mel import MelSpectrogram, decibels
from pcg.constraints import FROM_1
from pcg.models.checkpoint import Checkpoint, resolve_folder
from pcg.types import Audio

_FRAMES_PER_TOKEN = 2


class _ConvNeXt(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, residual (Liu et al., arXiv 2201.03545)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        h = self.norm(self.depthwise(x.transpose(1, 2)).transpose(1, 2))
        return x + self.scale * self.down(nn.functional.gelu(self.up(h)))


def _stack(inputs: int, width: int, blocks: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), *(_ConvNeXt(width) for _ in range(blocks)), nn.LayerNorm(width)]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


class CodecNet(nn.Module):
    """Mel frames -> tokens -> mel frames.

    Args:
        bands: mel bands.
        levels: FSQ levels.
        encoder_width, encoder_blocks, decoder_width, decoder_blocks: sizes of the two stacks.
    """

    def __init__(
        self,
        bands: int,
        levels: list[int],
        encoder_width: int,
        encoder_blocks: int,
        decoder_width: int,
        decoder_blocks: int,
    ) -> None:
        super().__init__()
        self.bands = bands
        self.fsq = FSQ(levels)
        self.encoder = _stack(bands * _FRAMES_PER_TOKEN, encoder_width, encoder_blocks, len(levels))
        # unit variance, so that the quantiser uses all levels equally often
        self.whiten = nn.BatchNorm1d(len(levels), affine=False)
        self.decoder = _stack(len(levels), decoder_width, decoder_blocks, bands * _FRAMES_PER_TOKEN)

    def quantise(
        self, mel: Float[Tensor, "batch bands frames"]
    ) -> tuple[Float[Tensor, "batch time dims"], Int[Tensor, "batch time"]]:
        """The grid value and the token of every two mel frames; an odd last frame is dropped."""
        time = mel.shape[-1] // _FRAMES_PER_TOKEN
        pairs = mel[..., : time * _FRAMES_PER_TOKEN].transpose(1, 2).reshape(len(mel), time, -1)
        latent = self.encoder(pairs).float()
        return self.fsq(self.whiten(latent.transpose(1, 2)).transpose(1, 2))

    def synthesise(self, values: Float[Tensor, "batch time dims"]) -> Float[Tensor, "batch bands frames"]:
        return self.decoder(values).reshape(len(values), -1, self.bands).transpose(1, 2)


class BundledCodec:
    """The codec of the bundled pair (``pcg.interfaces.Codec``).

    Args:
        path: folder with ``config.json`` and ``model.safetensors``, or ``bundled:NAME`` for one in the package.
        device: where it runs.
        iterations: of Griffin-Lim.
    """

    frame = 1

    def __init__(self, path: str, device: str = "cpu", iterations: Annotated[int, FROM_1] = 64) -> None:
        folder = resolve_folder(path)
        checkpoint = Checkpoint(folder)
        config = checkpoint.config
        self._mel = MelSpectrogram(**config["mel"]).to(device)
        self._net = CodecNet(bands=config["mel"]["bands"], **config["net"])
        state = self._net.state_dict()
        self._net.load_state_dict(
            {name: checkpoint.tensor(name, tuple(old.shape)).to(old.dtype) for name, old in state.items()}
        )
        checkpoint.refuse_unread()
        self._net.eval().to(device)
        self._device, self._iterations = torch.device(device), iterations
        self.sample_rate: int = config["mel"]["sample_rate"]
        self.hop: int = config["mel"]["hop"] * _FRAMES_PER_TOKEN
        self.codebook_size = self._net.fsq.size

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        """The tokens of each clip; raises ValueError if one is too short to have a spectrum."""
        tokens, shortest = [], self._mel.fft // 2 + 1
        for clip in audio:
            samples = at_rate(clip, self.sample_rate, self._device)
            if len(samples) < shortest:
                raise ValueError(
                    f"{clip.source or 'a clip'} lasts {1000 * clip.seconds:.3g} ms; this codec needs "
                    f"{1000 * shortest / self.sample_rate:.3g} ms or more"
                )
            mel = self._mel(samples[None])
            tokens.append(self._net.quantise(mel)[1][0])
        return tokens

    @torch.inference_mode()
    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        return [self._decode(row) for row in tokens]

    def _decode(self, tokens: Int[Tensor, "length"]) -> Audio:
        if not len(tokens):
            return Audio(torch.zeros(0).numpy(), self.sample_rate)
        mel = self._net.synthesise(self._net.fsq.values(tokens.to(self._device))[None])
        samples = self._mel.griffin_lim(mel, self._iterations)[0].clamp(-1, 1)
        return Audio(samples.cpu().numpy(), self.sample_rate)

    @torch.inference_mode()
    def spectra(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length values"]:
        """The levels in dB that Griffin-Lim turns into samples: two frames of mel bands for each token."""
        mel = self._net.synthesise(self._net.fsq.values(tokens.to(self._device)))
        return decibels(mel).transpose(1, 2).reshape(*tokens.shape, -1)

    def codebook(self) -> Float[Tensor, "codebook dims"]:
        return self._net.fsq.values(torch.arange(self.codebook_size, device=self._device))


def save_codec(folder: Path, net: CodecNet, mel: dict[str, int], sizes: dict[str, object]) -> None:
    """Write a codec folder, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"mel": mel, "net": sizes}, indent=1) + "\n")
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, folder / "model.safetensors")
