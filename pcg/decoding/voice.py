"""An utterance's voice prompt and its recording as speech tokens, whether they are stored as audio or coded already."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pcg.interfaces import Codec
from pcg.types import Audio, Utterance


def voice_tokens(utterance: Utterance, codec: Codec | None, audio_tokens: int) -> Int[Tensor, "length"] | None:
    """Of the voice prompt; None for a text without one.

    Args:
        codec: None where everything is coded already.
        audio_tokens: how many the models know.

    Raises:
        ValueError: a code that they do not know, or a recording without a codec.
    """
    return _tokens(utterance, "voice", utterance.load_prompt_codes, utterance.load_prompt, codec, audio_tokens)


def spoken_tokens(utterance: Utterance, codec: Codec | None, audio_tokens: int) -> Int[Tensor, "length"]:
    """Of the text as it was spoken; raises as ``voice_tokens``, and where nobody has spoken it."""
    tokens = _tokens(utterance, "recording", utterance.load_codes, utterance.load_reference, codec, audio_tokens)
    if tokens is None:
        raise ValueError(f"utterance {utterance.id!r} has no reference recording to read: choose another dataset")
    return tokens


def _tokens(
    utterance: Utterance,
    what: str,
    codes: Callable[[], np.ndarray] | None,
    recorded: Callable[[], Audio] | None,
    codec: Codec | None,
    audio_tokens: int,
) -> Int[Tensor, "length"] | None:
    if codes is not None:
        found = torch.from_numpy(codes().astype(np.int64))
        wrong = found[(found < 0) | (found >= audio_tokens)]
        if len(wrong):
            raise ValueError(
                f"utterance {utterance.id!r}: its {what} holds code {int(wrong[0])}, but the models know "
                f"{audio_tokens:,} audio tokens, 0 to {audio_tokens - 1}: these codes are of another codec"
            )
        return found
    if recorded is None:
        return None
    if codec is None:
        raise ValueError(
            f"utterance {utterance.id!r}: its {what} is audio and there is no codec to encode it: choose a codec, or a "
            "dataset of codes (dataset=tokens)"
        )
    return codec.encode([recorded()])[0]
