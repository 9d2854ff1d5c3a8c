"""CMU PocketSphinx: a second, much weaker recogniser, which fails on damage that Moonshine tolerates."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pcg.metrics.pretrained import SAMPLE_RATE, require


@functools.cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(samprate=SAMPLE_RATE, loglevel="FATAL", cmn="batch")


class PocketSphinx:
    """Transcribes 16 kHz samples with the US English model in its wheel (BSD), on one thread.

    Raises:
        MissingPart: the package is not installed.
    """

    language = "en"

    def __init__(self) -> None:
        require("pocketsphinx", "PocketSphinx")

    def __call__(self, samples: np.ndarray) -> str:
        if not len(samples):
            return ""
        decoder = _decoder()
        decoder.reinit_feat()  # forgets the noise and channel of earlier clips
        decoder.start_utt()
        decoder.process_raw((samples.clip(-1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""
