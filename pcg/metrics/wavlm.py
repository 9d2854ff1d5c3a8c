"""Speaker similarity by WavLM x-vectors (Chen et al. 2021, arXiv 2110.13900) through transformers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcg.constraints import Device
from pcg.metrics.pretrained import SAMPLE_RATE, device_of, require
from pcg.metrics.speaker import SIMILARITY, similarities
from pcg.models.checkpoint import read_json, resolve_folder
from pcg.types import Audio, Figure, Utterance

PUBLISHED = "microsoft/wavlm-base-plus-sv"  # has no safetensors
_SHORTEST = SAMPLE_RATE // 2  # samples that its time-delay layers need


@functools.cache
def _load(path: str, device: str) -> tuple[Any, Any]:
    """The feature extractor and the model, loaded once a process."""
    from transformers import AutoFeatureExtractor, WavLMForXVector

    folder = _folder(path)
    # the published checkpoint is a pickle, of which torch reads only tensors, so that it cannot run code
    model = WavLMForXVector.from_pretrained(folder, dtype=torch.float32, local_files_only=True, weights_only=True)
    return AutoFeatureExtractor.from_pretrained(folder, local_files_only=True), model.eval().to(device_of(device))


def _folder(path: str) -> Path:
    return resolve_folder(path, "pytorch_model.bin" if path == PUBLISHED else "*.safetensors")


class WavLMSimilarity:
    """Cosine between the x-vectors of the generated audio and of the voice prompt.

    Unit: cosine. Range: -1 to 1. Direction: higher is better. Without a prompt the reference recording is used; without
    either there is no similarity. Empty audio scores -1, the bottom of the scale, so that silence counts. Clips go
    through the model one by one, because padding changes the vectors; those under half a second are padded to it.

    The model is loaded at the first score, once a process.

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
        """Raises FileNotFoundError if the model cannot be found."""
        read_json(_folder(self._path) / "config.json")

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]:
        return similarities(audio, utterances, self._embed, empty=-1.0)

    @torch.inference_mode()
    def _embed(self, samples: np.ndarray) -> torch.Tensor:
        extractor, model = _load(self._path, self._device)
        samples = np.pad(samples, (0, max(0, _SHORTEST - len(samples))))
        inputs = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        return model(inputs.to(model.device)).embeddings[0]
