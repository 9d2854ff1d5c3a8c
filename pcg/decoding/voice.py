"""An utterance's voice prompt and its recording as speech tokens, whether the dataset stores audio or codes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pcg.interfaces import Codec
from pcg.types import Utterance


def voice_tokens(utterance: Utterance, codec: Codec | None, audio_tokens: int) -> Int[Tensor, "length"] | None:
    """Tokens of the voice prompt; None for an utterance without one.

    Args:
        codec: encodes audio; None where the dataset stores codes.
        audio_tokens: number of audio tokens of the models.

    Raises:
        ValueError: a code is not among these tokens, or there is audio and no codec.
    """
    return _tokens(utterance, "voice", codec, audio_tokens)


def spoken_tokens(utterance: Utterance, codec: Codec | None, audio_tokens: int) -> Int[Tensor, "length"]:
    """Tokens of the recording of the text; raises as ``voice_tokens``, and where there is no recording."""
    tokens = _tokens(utterance, "recording", codec, audio_tokens)
    if tokens is None:
        raise ValueError(f"utterance {utterance.id!r} has no recording of its text: choose a dataset with recordings")
    return tokens


def _tokens(
    utterance: Utterance, what: Literal["voice", "recording"], codec: Codec | None, audio_tokens: int
) -> Int[Tensor, "length"] | None:
    if what == "voice":
        codes, recorded = utterance.load_prompt_codes, utterance.load_prompt
    else:
        codes, recorded = utterance.load_codes, utterance.load_reference
    if codes is not None:
        tokens = torch.from_numpy(codes().astype(np.int64))
        unknown = tokens[(tokens < 0) | (tokens >= audio_tokens)]
        if len(unknown):
            raise ValueError(
                f"utterance {utterance.id!r}: its {what} holds code {int(unknown[0])}, but the models have "
                f"{audio_tokens:,} audio tokens, 0 to {audio_tokens - 1}: choose a dataset coded by their codec"
            )
        return tokens
    if recorded is None:
        return None
    if codec is None:
        raise ValueError(
            f"utterance {utterance.id!r}: its {what} is audio and there is no codec to encode it: choose a codec, or a "
            "dataset of codes (dataset=tokens)"
        )
    return codec.encode([recorded()])[0]
