"""Clips as codecs read them: at the codec's rate, in whole hops, long ones in overlapping pieces to bound memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pcg.types import Audio

Encode = Callable[[Float[Tensor, "batch samples"]], Int[Tensor, "batch time *frame"]]
Decode = Callable[[Int[Tensor, "batch time *frame"]], Float[Tensor, "batch samples"]]


@dataclass(frozen=True)
class Chunks:
    """How a codec with a fixed hop codes clips of any length.

    Only pieces of equal length share a pass, because padding changes what models compute: so the result depends only on
    the clip. Between two pieces tokens are joined in the middle of the overlap, and samples are cross-faded over it.

    Attributes:
        longest: tokens coded at once.
        overlap: tokens that neighbouring pieces share.
        batch_size: pieces coded together.
    """

    longest: int
    overlap: int
    batch_size: int

    @staticmethod
    def of_seconds(rate: float, chunk_seconds: float, overlap_seconds: float, batch_size: int) -> Chunks:
        """``rate`` is in tokens a second; raises ValueError if the overlap is more than half a chunk."""
        longest, overlap = round(chunk_seconds * rate), round(overlap_seconds * rate)
        if not 0 <= 2 * overlap <= longest:
            raise ValueError(
                f"overlap_seconds={overlap_seconds}: allowed from 0 to half of chunk_seconds={chunk_seconds}"
            )
        return Chunks(longest, overlap, batch_size)

    def encode(
        self, clips: Sequence[Float[Tensor, "_"]], hop: int, code: Encode, ahead: int = 0
    ) -> list[Int[Tensor, "_ *frame"]]:
        """The tokens of each clip, or frames of tokens, one for each ``hop`` samples.

        Args:
            clips: of whole hops.
            ahead: hops at the end that ``code`` reads but returns no tokens for.
        """
        lengths = [len(clip) // hop - ahead for clip in clips]
        pieces = [(row, piece) for row, length in enumerate(lengths) for piece in self.pieces(length)]
        waves = [clips[row][start * hop : (end + ahead) * hop] for row, (start, end) in pieces]
        tokens: list[list[Tensor]] = [[] for _ in clips]
        half = self.overlap // 2
        for (row, (start, end)), piece_tokens in zip(pieces, self._in_batches(waves, code), strict=True):
            first = half if start else 0
            last = end - start - (self.overlap - half) if end < lengths[row] else end - start
            tokens[row].append(piece_tokens[first:last])
        return [torch.cat(row) for row in tokens]

    def decode(self, rows: Sequence[Int[Tensor, "_ *frame"]], hop: int, code: Decode) -> list[Float[Tensor, "_"]]:
        """``len(row) * hop`` samples of each row."""
        pieces = [(index, piece) for index, row in enumerate(rows) for piece in self.pieces(len(row))]
        waves = self._in_batches([rows[index][start:end] for index, (start, end) in pieces], code)
        whole = [torch.zeros(len(row) * hop, device=row.device) for row in rows]
        for (index, (start, _)), wave in zip(pieces, waves, strict=True):
            self._cross_fade(whole[index], start * hop, wave, self.overlap * hop)
        return whole

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """(start, end) of the pieces that cover ``length`` tokens."""
        if length <= self.longest:
            return [(0, length)]
        starts = range(0, length - self.overlap, self.longest - self.overlap)
        return [(start, min(start + self.longest, length)) for start in starts]

    def _in_batches(self, rows: Sequence[Tensor], code: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The results of ``code`` in the rows' order, computed on stacks of rows of equal length."""
        results: list[Tensor] = [torch.empty(0)] * len(rows)
        order = sorted((index for index, row in enumerate(rows) if len(row)), key=lambda index: len(rows[index]))
        while order:
            equal = [i for i in order[: self.batch_size] if len(rows[i]) == len(rows[order[0]])]
            for index, result in zip(equal, code(torch.stack([rows[i] for i in equal])), strict=True):
                results[index] = result
            order = order[len(equal) :]
        return results

    @staticmethod
    def _cross_fade(whole: Float[Tensor, "samples"], start: int, wave: Float[Tensor, "piece"], over: int) -> None:
        """Add a decoded piece to the whole; over the overlap the earlier piece fades out and this one fades in."""
        fade = min(over, len(wave)) if start else 0
        rising = (torch.arange(fade, device=wave.device) + 0.5) / max(fade, 1)
        whole[start : start + fade] *= 1 - rising
        whole[start : start + fade] += wave[:fade] * rising
        whole[start + fade : start + len(wave)] = wave[fade:]


def at_rate(clip: Audio, rate: int, device: torch.device) -> Float[Tensor, "samples"]:
    """The samples of a clip, resampled to ``rate`` in Hz."""
    samples = soxr.resample(np.asarray(clip.samples, dtype=np.float32), clip.sample_rate, rate)
    return torch.from_numpy(np.ascontiguousarray(samples)).to(device)


def whole_hops(wave: Float[Tensor, "samples"], hop: int) -> Float[Tensor, "padded"]:
    """The samples padded with zeros, by at least one, to whole hops."""
    return F.pad(wave, (0, hop - len(wave) % hop))
