"""Moonshine tiny English (Jeffries et al. 2024, arXiv 2410.15608): the first recogniser."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pcg.metrics.pretrained import SAMPLE_RATE, MissingPart, require


@functools.cache
def _transcriber() -> Any:
    from moonshine_voice import ModelArch, Transcriber, get_model_path

    # With its voice detector on, an answer depends on the audio heard before; a threshold of 0 passes all audio.
    return Transcriber(str(get_model_path("tiny-en")), ModelArch.TINY, options={"vad_threshold": "0"})


class Moonshine:
    """Transcribes 16 kHz samples, each call on its own.

    The model (27 M parameters, MIT) ships inside the wheel of moonshine-voice 0.0.73 and is loaded at the first
    call, once a process. Its onnx runtime takes the machine's cores and offers no option to say otherwise.

    Raises:
        MissingPart: the package is not installed, or is a later one, whose wheel has no weights.
    """

    language = "en"

    def __init__(self) -> None:
        if not (require("moonshine_voice", "Moonshine") / "assets/tiny-en/encoder_model.ort").exists():
            raise MissingPart("this moonshine-voice has no weights inside: `pip install moonshine-voice==0.0.73`")

    def __call__(self, samples: np.ndarray) -> str:
        if len(samples) < SAMPLE_RATE // 10:  # too short for its encoder, and for a word
            return ""
        transcript = _transcriber().transcribe_without_streaming(samples.tolist(), SAMPLE_RATE)
        return " ".join(line.text.strip() for line in transcript.lines)
