"""Moonshine tiny English (Jeffries et al. 2024, arXiv 2410.15608): the first recogniser."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pcg.metrics.pretrained import SAMPLE_RATE, MissingPart, require


@functools.cache
def _transcriber() -> Any:
    from moonshine_voice import ModelArch, Transcriber, get_model_path

    # With its voice detector on, a transcript depends on earlier calls; a threshold of 0 passes all audio.
    return Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY, options={"vad_threshold": "0"})


class Moonshine:
    """Transcribes 16 kHz samples, each call on its own.

    The model (27 M parameters, MIT) is in the wheel of moonshine-voice 0.0.73 and is loaded at the first call, once a
    process. Its onnx runtime uses all cores and has no option for fewer.

    Raises:
        MissingPart: the package is not installed, or is a later version, whose wheel has no weights.
    """

    language = "en"

    def __init__(self) -> None:
        if not (require("moonshine_voice", "Moonshine") / "assets/tiny-en/encoder_model.ort").exists():
            raise MissingPart(
                "this version of moonshine-voice has no weights: run `pip install moonshine-voice==0.0.73`"
            )

    def __call__(self, samples: np.ndarray) -> str:
        if len(samples) < SAMPLE_RATE // 10:  # too short for its encoder, and for a word
            return ""
        transcript = _transcriber().transcribe_without_streaming(samples.tolist(), SAMPLE_RATE)
        return " ".join(line.text.strip() for line in transcript.lines)
