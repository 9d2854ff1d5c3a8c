"""Audio of speech tokens while they are decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pcg.interfaces import Codec


class Stream:
    """Decodes tokens to audio piece by piece, close to what the codec makes of all of them at once.

    A piece is decoded together with the ``context`` tokens before it (at first those of the voice prompt) and the
    ``ahead`` tokens after it, for which it waits; over one frame it is cross-faded with the next piece. So the audio
    that has been returned ends ``ahead`` tokens before the tokens that have been fed, until ``finish``.

    Where a codec's receptive field is within ``context`` before and ``ahead`` less one frame after a token, the audio
    equals that of the whole up to rounding; docs/streaming.md says how far other codecs are from it. ``context`` and
    ``ahead`` are rounded up to whole frames.

    Args:
        voice: tokens of the voice prompt, whose audio is not returned; None without one.
        chunk: tokens a piece.

    Attributes:
        chunk, ahead: in tokens, rounded.
    """

    def __init__(
        self, codec: Codec, voice: Int[Tensor, "_"] | None, chunk: int = 25, context: int = 50, ahead: int = 5
    ) -> None:
        frame = codec.frame
        whole = 0 if voice is None else len(voice) // frame * frame
        self._codec, self._tokens = codec, [] if voice is None else voice[:whole].tolist()
        self._chunk, self._context, self._ahead = (-(-tokens // frame) for tokens in (chunk, context, ahead))
        self._ahead = max(self._ahead, 2)  # the one that is cross-faded has seen one more
        self.chunk, self.ahead = (frames * frame for frames in (max(self._chunk, self._ahead), self._ahead))
        self._given = self._fed = whole // frame  # frames given, the prompt's among them; fed when that was done
        self._fade = np.zeros(0, dtype=np.float32)  # what the last piece made of the frame after it

    def feed(self, tokens: Sequence[int]) -> np.ndarray:
        """The samples of the next piece; none until its tokens are all there."""
        self._tokens += tokens
        full = len(self._tokens) // self._codec.frame >= self._fed + self.chunk // self._codec.frame
        return self._decode(self._ahead) if full else np.zeros(0, dtype=np.float32)

    def finish(self) -> np.ndarray:
        """The samples of all remaining tokens."""
        return self._decode(0)

    def _decode(self, ahead: int) -> np.ndarray:
        frame, hop = self._codec.frame, self._codec.hop
        start, end = max(0, self._given - self._context), len(self._tokens) // frame
        if end == self._given:
            return np.zeros(0, dtype=np.float32)
        [piece] = self._codec.decode([torch.tensor(self._tokens[start * frame : end * frame])])
        samples = np.array(piece.samples[(self._given - start) * hop :], dtype=np.float32)
        over, given = len(self._fade), len(samples) - ahead * hop
        rising = (np.arange(over, dtype=np.float32) + 0.5) / max(over, 1)
        samples[:over] = samples[:over] * rising + self._fade * (1 - rising)
        self._given, self._fed, self._fade = end - ahead, end, samples[given : given + hop]
        return samples[:given]


def waits(
    arrivals: Sequence[tuple[int, float]], chunk: int, ahead: int, token_seconds: float, piece_seconds: float
) -> tuple[float, float]:
    """Seconds until a player has its first audio, and the longest time that it then waits for the next piece.

    The codec takes turns with decoding, as in ``pcg speak``: a piece is ready ``piece_seconds`` after its last token,
    and delays all later pieces by as much.

    Args:
        arrivals: how many tokens there are and the seconds until then, in order; one entry at least.
        token_seconds: length of a token's audio.
        piece_seconds: how long the codec takes for a piece.
    """
    total, ready, played, worst = arrivals[-1][0], 0.0, 0.0, 0.0
    ends = [*range(chunk, total, chunk), total]
    first, before = 0.0, 0
    for piece, end in enumerate(ends):
        ready = next(seconds for tokens, seconds in arrivals if tokens >= end) + (piece + 1) * piece_seconds
        given_end = end if end == total else end - ahead
        if piece == 0:
            first = played = ready
        worst = max(worst, ready - played)
        played = max(ready, played) + (given_end - before) * token_seconds
        before = given_end
    return first, worst
