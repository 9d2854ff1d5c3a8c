"""X-codec2 (arXiv 2502.04128), LLaSA's codec: 16 kHz, 50 tokens a second, one FSQ codebook of 4^8 codes.

Runs transformers' own ``Xcodec2Model``. Its features are computed here, since transformers' extractor needs
torchaudio, which not every build of torch has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pcg.codecs.fbank import Fbank
from pcg.models.checkpoint import Checkpoint, Dtype, check_finite, dtype_of, resolve_folder
from pcg.ranges import ABOVE_0, FROM_0, FROM_1, Ranges
from pcg.types import Audio


class Xcodec2:
    """X-codec2 as a ``pcg.interfaces.Codec``.

    A clip of n samples becomes ``n // 320 + 1`` tokens: it is padded, by at least one sample, to whole tokens, as
    the model was trained. Only clips of equal length share a pass, because the model sees padding: so a clip's
    tokens depend on nothing but the clip.

    What is longer than ``chunk_seconds`` is coded in chunks that overlap, so that memory is bounded: tokens change
    from one chunk to the next in the middle of the overlap, samples are cross-faded over it.

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

        folder = resolve_folder(path)
        kind = Checkpoint(folder).config.get("model_type")  # also refuses pickles and broken files, by name
        if kind != "xcodec2":
            raise ValueError(
                f"{path}: config.json has model_type={kind!r}, not 'xcodec2'; the original checkpoint must be the one "
                "converted for transformers (HKUSTAudio/xcodec2-hf)"
            )
        self._dtype, self._device = dtype_of(dtype), torch.device(device)
        self._model = Xcodec2Model.from_pretrained(folder, dtype=self._dtype, local_files_only=True)
        for name, weight in self._model.named_parameters():
            check_finite(f"{path}: {name}", weight)
        self._model.eval().requires_grad_(False).to(self._device)
        self._fbank = Fbank().to(self._device)
        self._batch_size = batch_size
        self.hop: int = self._model.config.hop_length
        self.codebook_size = int(np.prod(self._model.config.quantization_levels))
        self._chunk, self._overlap = (round(s * self.sample_rate / self.hop) for s in (chunk_seconds, overlap_seconds))
        if not 0 <= 2 * self._overlap <= self._chunk:
            raise ValueError(f"overlap_seconds={overlap_seconds}: from 0 to half of chunk_seconds={chunk_seconds}")

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        clips = [self._padded(clip) for clip in audio]
        pieces = [
            (row, piece)
            for row, clip in enumerate(clips)
            for piece in _pieces(len(clip) // self.hop, self._chunk, self._overlap)
        ]
        waves = [clips[row][start * self.hop : end * self.hop] for row, (start, end) in pieces]
        tokens: list[list[Tensor]] = [[] for _ in clips]
        half = self._overlap // 2
        for (row, (start, end)), piece_tokens in zip(pieces, self._in_batches(waves, self._encode), strict=True):
            first = half if start else 0
            last = end - start - (self._overlap - half) if end < len(clips[row]) // self.hop else end - start
            tokens[row].append(piece_tokens[first:last])
        return [torch.cat(row) for row in tokens]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        rows = [row.to(self._device) for row in tokens]
        pieces = [
            (index, piece) for index, row in enumerate(rows) for piece in _pieces(len(row), self._chunk, self._overlap)
        ]
        waves = self._in_batches([rows[index][start:end] for index, (start, end) in pieces], self._decode)
        whole = [torch.zeros(len(row) * self.hop, device=self._device) for row in rows]
        for (index, (start, _)), wave in zip(pieces, waves, strict=True):
            self._cross_fade(whole[index], start * self.hop, wave)
        return [Audio(samples.clamp(-1, 1).cpu().numpy(), self.sample_rate) for samples in whole]

    def codebook(self) -> Float[Tensor, "codebook dims"]:
        """The FSQ grid: eight digits a token, evenly spaced in [-1, 1]."""
        return self._model.quantizer.quantizer.codebook.float()

    def _padded(self, clip: Audio) -> Float[Tensor, "samples"]:
        """At the codec's rate, zero-padded to whole tokens."""
        samples = soxr.resample(np.asarray(clip.samples, dtype=np.float32), clip.sample_rate, self.sample_rate)
        wave = torch.from_numpy(np.ascontiguousarray(samples)).to(self._device)
        return F.pad(wave, (0, self.hop - len(wave) % self.hop))

    def _encode(self, waves: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch time"]:
        features = self._fbank(F.pad(waves, (self.hop // 2, self.hop // 2)))
        codes = self._model.encode(waves[:, None].to(self._dtype), features.to(self._dtype)).audio_codes
        return codes[:, 0].long()

    def _decode(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch samples"]:
        return self._model.decode(tokens[:, None]).audio_values[:, 0].float()

    def _in_batches(self, rows: Sequence[Tensor], code: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """``code`` on stacks of rows of equal length, the results in the rows' order."""
        done: list[Tensor] = [torch.empty(0)] * len(rows)
        order = sorted((index for index, row in enumerate(rows) if len(row)), key=lambda index: len(rows[index]))
        while order:
            alike = [i for i in order[: self._batch_size] if len(rows[i]) == len(rows[order[0]])]
            for index, result in zip(alike, code(torch.stack([rows[i] for i in alike])), strict=True):
                done[index] = result
            order = order[len(alike) :]
        return done

    def _cross_fade(self, whole: Float[Tensor, "samples"], start: int, wave: Float[Tensor, "piece"]) -> None:
        """Add a piece to what is there; over its first overlap what is there gives way to it."""
        fade = min(self._overlap * self.hop, len(wave)) if start else 0
        rising = (torch.arange(fade, device=wave.device) + 0.5) / max(fade, 1)
        whole[start : start + fade] *= 1 - rising
        whole[start : start + fade] += wave[:fade] * rising
        whole[start + fade : start + len(wave)] = wave[fade:]


def _pieces(length: int, chunk: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of pieces of at most ``chunk`` that cover ``length`` and overlap by ``overlap``."""
    if length <= chunk:
        return [(0, length)]
    starts = range(0, length - overlap, chunk - overlap)
    return [(start, min(start + chunk, length)) for start in starts]
