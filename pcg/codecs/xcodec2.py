"""X-codec2 (arXiv 2502.04128), LLaSA's codec: 16 kHz, 50 tokens a second, one FSQ codebook of 4^8 codes.

Runs transformers' own ``Xcodec2Model``. Its features are computed here, since transformers' extractor needs
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


class Xcodec2:
    """X-codec2 as a ``pcg.interfaces.Codec``.

    A clip of n samples becomes ``n // 320 + 1`` tokens: it is padded, by at least one sample, to whole tokens, as
    the model was trained. What is longer than ``chunk_seconds`` is coded in chunks that overlap
    (``pcg.codecs.chunks``).

    Args:
        path: folder of the checkpoint converted for transformers, or a hub id.
        dtype: of the computation: float32, bfloat16 or float16.
        device: where it runs.
        chunk_seconds: longest piece that is coded at once.
        overlap_seconds: how far neighbouring pieces overlap.
        batch_size: pieces that are coded together.

    Raises:
        ValueError: a folder that does not hold X-codec2, or an overlap of more than half a chunk.
    """

    sample_rate = 16_000

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
        from transformers import Xcodec2Model  # seconds; needed only where this codec is used

        self._dtype, self._device = dtype_of(dtype), torch.device(device)
        advice = "the original checkpoint must be the one converted for transformers (HKUSTAudio/xcodec2-hf)"
        self._model = load(Xcodec2Model, path, "xcodec2", advice, self._dtype, self._device)
        self._fbank = Fbank().to(self._device)
        self.hop: int = self._model.config.hop_length
        self.codebook_size = int(np.prod(self._model.config.quantization_levels))
        rate = self.sample_rate / self.hop
        self._chunks = Chunks.of_seconds(rate, chunk_seconds, overlap_seconds, batch_size)

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        return self._chunks.encode([self._padded(clip) for clip in audio], self.hop, self._encode)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        waves = self._chunks.decode([row.to(self._device) for row in tokens], self.hop, self._decode)
        return [Audio(samples.clamp(-1, 1).cpu().numpy(), self.sample_rate) for samples in waves]

    def codebook(self) -> Float[Tensor, "codebook dims"]:
        """The FSQ grid: eight digits a token, evenly spaced in [-1, 1]."""
        return self._model.quantizer.quantizer.codebook.float()

    def _padded(self, clip: Audio) -> Float[Tensor, "samples"]:
        """At the codec's rate, zero-padded to whole tokens."""
        return whole_hops(at_rate(clip, self.sample_rate, self._device), self.hop)

    def _encode(self, waves: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch time"]:
        features = self._fbank(F.pad(waves, (self.hop // 2, self.hop // 2)))
        codes = self._model.encode(waves[:, None].to(self._dtype), features.to(self._dtype)).audio_codes
        return codes[:, 0].long()

    def _decode(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch samples"]:
        return self._model.decode(tokens[:, None]).audio_values[:, 0].float()
