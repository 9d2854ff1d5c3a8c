"""Whisper (Radford et al. 2022, arXiv 2212.04356) through transformers: the recogniser of published WERs."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import torch

from pcg.constraints import FROM_1, Device, Language
from pcg.metrics.pretrained import SAMPLE_RATE, device_of, require
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, read_json, resolve_folder

_WINDOW = 30 * SAMPLE_RATE  # samples that Whisper transcribes at once


@functools.cache
def _load(path: str, dtype: str, device: str) -> tuple[Any, Any]:
    """The processor and the model, loaded once a process."""
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    folder = resolve_folder(path)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=dtype_of(dtype), local_files_only=True)
    generation: Any = model.generation_config
    if not generation.is_multilingual:
        generation.forced_decoder_ids = None  # an old form of return_timestamps
    return processor, model.eval().to(device_of(device))


@contextmanager
def _without_internal_warning() -> Iterator[None]:
    """Silence a warning of transformers 5 that callers cannot avoid: Whisper's ``generate`` passes both a generation
    config and two of its values to the common ``generate``, which warns of that."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Passing `generation_config` together with")

    logger = logging.getLogger("transformers.generation.utils")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


class Whisper:
    """Transcribes one language, greedily, without timestamps; clips of at most 30 s in batches, longer ones alone.

    The model is loaded at the first transcription, once a process.

    Args:
        path: a hub id, or a folder.
        dtype: float32, bfloat16 or float16.
        device: auto (the GPU if there is one), cpu, cuda or cuda:N.
        batch_size: clips transcribed together.
        language: code of the language to transcribe.

    Raises:
        MissingPart: transformers is not installed.
    """

    def __init__(
        self,
        path: str,
        dtype: Dtype = "float32",
        device: Device = "auto",
        batch_size: Annotated[int, FROM_1] = 16,
        language: Language = "en",
    ) -> None:
        require("transformers", "Whisper")
        self.language = language
        self._path, self._dtype, self._device, self._batch_size = path, dtype, device, batch_size

    def prepare(self) -> None:
        """Raises FileNotFoundError or ValueError if the model cannot be found, is damaged, or lacks the language."""
        folder = resolve_folder(self._path)
        Checkpoint(folder)
        # an English-only model lists none
        languages = read_json(folder / "generation_config.json").get("lang_to_id") or {"<|en|>": 0}
        if f"<|{self.language}|>" not in languages:
            names = ", ".join(sorted(name.strip("<|>") for name in languages))
            raise ValueError(f"{self._path} does not support language={self.language}; allowed: {names}")

    def __call__(self, samples: np.ndarray) -> str:
        return self.many([samples])[0]

    def many(self, clips: Sequence[np.ndarray]) -> list[str]:
        """The transcript of each clip of 16 kHz samples."""
        transcripts = [""] * len(clips)
        short = [index for index, clip in enumerate(clips) if len(clip) <= _WINDOW]
        batches = [short[i : i + self._batch_size] for i in range(0, len(short), self._batch_size)]
        batches += [[index] for index, clip in enumerate(clips) if len(clip) > _WINDOW]
        for batch in batches:
            for index, transcript in zip(batch, self._transcribe([clips[i] for i in batch]), strict=True):
                transcripts[index] = transcript.strip()
        return transcripts

    @torch.inference_mode()
    def _transcribe(self, clips: Sequence[np.ndarray]) -> list[str]:
        processor, model = _load(self._path, self._dtype, self._device)
        beyond = len(clips[0]) > _WINDOW  # then it moves from window to window by the timestamps that it predicts
        inputs = processor(
            list(clips), sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True,
            **({"truncation": False, "padding": "longest"} if beyond else {}),
        )  # fmt: skip
        task = {"language": self.language, "task": "transcribe"} if model.generation_config.is_multilingual else {}
        with _without_internal_warning():
            ids = model.generate(
                inputs.input_features.to(model.device, model.dtype),
                attention_mask=inputs.attention_mask.to(model.device),
                do_sample=False, num_beams=1, return_timestamps=beyond, **task,
            )  # fmt: skip
        return processor.batch_decode(ids, skip_special_tokens=True)
