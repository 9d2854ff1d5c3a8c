"""NeuCodec (arXiv 2509.09550), NeuTTS' codec: reads 16 kHz, speaks 24 kHz, 50 tokens a second, one FSQ codebook of 4^8.

Runs transformers' own ``NeuCodecModel``. Its features are computed here, since transformers' extractor needs
torchaudio, which not every build of torch has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pcg.codecs.chunks import Chunks, whole_hops
from pcg.codecs.converted import at_rate, load
from pcg.codecs.fbank import Fbank
from pcg.models.checkpoint import Dtype, dtype_of
from pcg.ranges import ABOVE_0, FROM_0, FROM_1, Ranges
from pcg.types import Audio

_READS = 16_000  # Hz
_AHEAD = 1  # hops without a token at a clip's end: its features are of windows that lie within the clip


class NeuCodec:
    """NeuCodec as a ``pcg.interfaces.Codec``; ``sample_rate`` and ``hop`` are those of what it speaks.

    A clip of n samples at 16 kHz becomes ``n // 320`` tokens, one at least. What is longer than ``chunk_seconds`` is
    coded in chunks that overlap (``pcg.codecs.chunks``).

    Args:
        path: folder of the checkpoint converted for transformers, or a hub id.
        dtype: of the computation: float32, bfloat16 or float16.
        device: where it runs.
        chunk_seconds: longest piece that is coded at once.
        overlap_seconds: how far neighbouring pieces overlap.
        batch_size: pieces that are coded together.

    Raises:
        ImportError: transformers is too old to have it.
        ValueError: a folder that does not hold NeuCodec, or an overlap of more than half a chunk.
    """

    RANGES: ClassVar[Ranges] = {"chunk_seconds": ABOVE_0, "overlap_seconds": FROM_0, "batch_size": FROM_1}

    def __init__(
        self,
        path: str,
        device: str | torch.device = "cpu",
        dtype: Dtype = "float32",
        chunk_seconds: float = 30.0,
        overlap_seconds: float = 1.0,
        batch_size: int = 8,
    ) -> None:
        try:
            from transformers import NeuCodecModel  # seconds; needed only where this codec is used
        except ImportError as error:
            raise ImportError(
                "codec=neucodec: transformers has NeuCodecModel from 5.17 on, and this is older"
            ) from error
        self._dtype, self._device = dtype_of(dtype), torch.device(device)
        advice = "it must be one converted for transformers, and codec=xcodec2 reads X-codec2"
        self._model = load(NeuCodecModel, path, "neucodec", advice, self._dtype, self._device)
        self._fbank = Fbank().to(self._device)
        config = self._model.config
        if config.input_sampling_rate != _READS:
            raise ValueError(f"{path}: config.json has input_sampling_rate={config.input_sampling_rate}, not {_READS}")
        self.sample_rate: int = config.output_sampling_rate
        self.hop: int = config.hop_length
        self.codebook_size = int(np.prod(config.quantization_levels))
        self._read_hop: int = config.encoder_hop_length
        self._chunks = Chunks.of_seconds(_READS / self._read_hop, chunk_seconds, overlap_seconds, batch_size)

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        return self._chunks.encode([self._padded(clip) for clip in audio], self._read_hop, self._encode, _AHEAD)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        waves = self._chunks.decode([row.to(self._device) for row in tokens], self.hop, self._decode)
        return [Audio(samples.clamp(-1, 1).cpu().numpy(), self.sample_rate) for samples in waves]

    def codebook(self) -> Float[Tensor, "codebook dims"]:
        """The FSQ grid: eight digits a token, evenly spaced in [-1, 1]."""
        return self._model.quantizer.quantizer.codebook.float()

    def _padded(self, clip: Audio) -> Float[Tensor, "samples"]:
        """At the rate that it reads, zero-padded to whole tokens, and to one token at least."""
        wave = whole_hops(at_rate(clip, _READS, self._device), self._read_hop)
        return F.pad(wave, (0, max(0, (1 + _AHEAD) * self._read_hop - len(wave))))

    def _encode(self, waves: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch time"]:
        """One token less than there are hops."""
        codes = self._model.encode(waves[:, None].to(self._dtype), self._fbank(waves).to(self._dtype)).audio_codes
        return codes[:, 0].long()

    def _decode(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch samples"]:
        return self._model.decode(tokens[:, None]).audio_values[:, 0].float()
