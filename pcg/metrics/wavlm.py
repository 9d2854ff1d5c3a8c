"""Speaker similarity by WavLM x-vectors (Chen et al. 2021, arXiv 2110.13900) through transformers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcg.constraints import Device
from pcg.metrics.pretrained import SAMPLE_RATE, device_of, require, samples_of
from pcg.metrics.speaker import SIMILARITY, voice_of
from pcg.models import hub
from pcg.models.checkpoint import read_json, resolve_folder
from pcg.types import Audio, Figure, Utterance

PUBLISHED = "microsoft/wavlm-base-plus-sv"  # has no safetensors
_SHORTEST = SAMPLE_RATE // 2  # what its time-delay layers need to see


@functools.cache
def _load(path: str, device: str) -> tuple[Any, Any]:
    """Feature extractor and model, once a process."""
    from transformers import AutoFeatureExtractor, WavLMForXVector

    folder = _folder(path)
    # the published checkpoint is a pickle: torch reads it as tensors only, so that it cannot run code
    model = WavLMForXVector.from_pretrained(folder, dtype=torch.float32, local_files_only=True, weights_only=True)
    return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True), model.eval().to(device_of(device))


def _folder(path: str) -> Path:
    return hub.fetch(path, "pytorch_model.bin") if path == PUBLISHED and hub.is_hub_id(path) else resolve_folder(path)


class WavLMSimilarity:
    """Cosine between the x-vectors of the generated audio and of the voice prompt.

    Unit: cosine. Range: -1 to 1. Direction: higher is more alike. Without a prompt the reference recording stands
    in; without either there is no similarity. Empty audio scores -1, the bottom of the scale, so that an utterance that
    failed still counts. One clip a pass, because padding would change the vectors; clips shorter than half a second are
    padded to it.

    Loaded at the first score, once a process.

    Args:
        path: a hub id, or a folder.
        device: auto (the GPU if there is one), cpu, cuda or cuda:N.

    Raises:
        MissingPart: transformers is not installed.
    """

    figures: Mapping[str, Figure] = {"speaker_similarity": SIMILARITY}

    def __init__(self, path: str, device: Device = "auto") -> None:
        require("transformers", "speaker similarity")
        self._path, self._device = path, device

    def prepare(self) -> None:
        """Raises FileNotFoundError where the model is neither here nor to be had."""
        read_json(_folder(self._path) / "config.json")

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]:
        return [
            {"speaker_similarity": self._similarity(samples_of(clip), voice_of(utterance))}
            for clip, utterance in zip(audio, utterances, strict=True)
        ]

    def _similarity(self, samples: np.ndarray, voice: Audio | None) -> float | None:
        if voice is None:
            return None
        if not len(samples):
            return -1.0
        return torch.cosine_similarity(self._embed(samples), self._embed(samples_of(voice)), dim=0).item()

    @torch.inference_mode()
    def _embed(self, samples: np.ndarray) -> torch.Tensor:
        extractor, model = _load(self._path, self._device)
        samples = np.pad(samples, (0, max(0, _SHORTEST - len(samples))))
        inputs = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        return model(inputs.to(model.device)).embeddings[0]
