"""Predicted naturalness."""

from __future__ import annotations

import contextlib
import functools
import io
import sys
import types
from collections.abc import Mapping, Sequence

import torch

from pcg.metrics.pretrained import one_torch_thread, require, samples_of
from pcg.types import Audio, Figure, Utterance


@functools.cache
def _model() -> torch.nn.Module:
    """The model, loaded once a process. Its package imports torchaudio only for its command line: a stub will do."""
    loaded = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = loaded or types.ModuleType("torchaudio")
    try:
        from distillmos import ConvTransformerSQAModel
    finally:
        if loaded is None:
            del sys.modules["torchaudio"]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the path of its weights
        return ConvTransformerSQAModel().eval()


class Mos:
    """Mean opinion score predicted by DistillMOS (Stahl and Gamper 2025, arXiv 2502.05356).

    Unit: points of a five-point scale. Range: 1 to 5. Direction: higher is better. Loudness does not matter. Empty
    audio scores 1, the bottom of the scale, so that silence counts.

    Raises:
        MissingPart: distillmos or xls-r-sqa is not installed.
    """

    figures: Mapping[str, Figure] = {"mos": Figure("MOS", format=".2f", better="higher", ratio=("mos", None))}

    def __init__(self) -> None:
        for package in ("distillmos", "xls_r_sqa"):
            require(package, "MOS")

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]:
        with one_torch_thread():
            return [{"mos": self._mos(clip)} for clip, _ in zip(audio, utterances, strict=True)]

    @torch.inference_mode()
    def _mos(self, audio: Audio) -> float:
        samples = samples_of(audio)
        return _model()(torch.from_numpy(samples)[None]).item() if len(samples) else 1.0
