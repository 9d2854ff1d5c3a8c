"""The keys of ``conf/run.yaml`` that the runner reads itself, with their types and ranges."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from pcg.config.values import study_folder
from pcg.ranges import DEVICE, FROM_0, FROM_1, Ranges, up_to
from pcg.sampling import Sampling

# Where a strategy's groups take their embeddings from: a model's input or output table, or the codec's codebook.
SOURCES = ("target_input", "target_output", "draft_input", "draft_output", "codec")


@dataclass(frozen=True)
class Decoding:
    """The ``decoding`` group. How values are checked: ``RANGES`` here, and those of ``Sampling``."""

    gamma: int
    batch_size: int
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    repetition_penalty: float
    baseline: bool
    mode: str = "speculative"
    candidates: int = 1
    compile: bool | str = "auto"
    control: dict[str, Any] | None = None

    RANGES: ClassVar[Ranges] = {
        "gamma": up_to(1_000),
        "candidates": up_to(1_000),
        "batch_size": up_to(100_000),
        "max_tokens": up_to(10_000_000),
        "compile": (lambda value: value in (True, False, "auto"), "auto, true or false"),
        "mode": (lambda value: value in ("speculative", "law", "truncated"), "speculative, law or truncated"),
    }

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty)


@dataclass(frozen=True)
class Gpu:
    """As its maker states it: bytes, bytes a second, dense bfloat16 operations a second."""

    memory: int
    bandwidth: float
    operations: float


GPUS = {
    "h200": Gpu(141_000_000_000, 4.8e12, 989e12),
    "h100": Gpu(80_000_000_000, 3.35e12, 989e12),  # SXM
    "a100": Gpu(80_000_000_000, 2.039e12, 312e12),  # SXM, 80 GB
    "l40s": Gpu(48_000_000_000, 0.864e12, 362e12),
    "rtx4090": Gpu(24_000_000_000, 1.008e12, 165e12),
}


@dataclass(frozen=True)
class Plan:
    """The ``plan`` group, read where ``dry`` is true (``pcg.studies.plan``)."""

    gpu: str = "h100"
    alpha: float = 0.6
    rival: float = 0.2
    group_size: int = 141
    codes: int = 65_536
    prompt_tokens: int = 500

    RANGES: ClassVar[Ranges] = {
        "gpu": (lambda value: value in GPUS, f"one of {', '.join(GPUS)}"),
        "alpha": (lambda value: 0 <= value <= 1, "from 0 to 1"),
        "rival": (lambda value: 0 <= value <= 1, "from 0 to 1"),
        "group_size": FROM_1,
        "codes": FROM_1,
        "prompt_tokens": FROM_0,
    }

    @property
    def rows(self) -> int:
        """Of the speech vocabulary: the codes, and end-of-speech."""
        return self.codes + 1


@dataclass(frozen=True)
class Paths:
    outputs: str


@dataclass(frozen=True)
class Settings:
    """One run: the whole config, with the parts still as plain dictionaries."""

    study: str
    seed: int
    device: str
    threads: int
    max_failures: int
    paths: dict[str, Any]
    target: dict[str, Any]
    draft: dict[str, Any] | None
    codec: dict[str, Any]
    dataset: dict[str, Any]
    grouping: dict[str, Any]
    decoding: dict[str, Any]
    metrics: dict[str, Any] | None
    logger: dict[str, Any] | None
    devices: int = 1
    dry: bool = False
    status: bool = False
    objective: dict[str, Any] | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] | None = None

    RANGES: ClassVar[Ranges] = {
        "study": (
            lambda value: re.fullmatch(r"[\w+-][\w.+-]*", value) is not None and len(value.encode()) <= 200,
            "a folder name of letters, digits, _ + - and dots, of at most 200 bytes",
        ),
        "seed": FROM_0,
        "devices": up_to(10_000),
        "threads": up_to(10_000),
        "max_failures": FROM_0,
        "device": DEVICE,
    }

    @property
    def together(self) -> int:
        """Utterances that are handed over, and recorded, together."""
        return self._served("window")

    @property
    def at_once(self) -> int:
        """Utterances that are at work at once."""
        return self._served("concurrency")

    def _served(self, key: str) -> int:
        engine = self.engine or {}
        return engine[key] if engine.get("_target_") else self.decoding["batch_size"]

    @property
    def study_folder(self) -> Path:
        return study_folder(self.paths["outputs"], self.study)


def pick_device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        ValueError: a CUDA device is asked for and is not there; never a silent CPU run.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device={name!r}: this machine offers {torch.cuda.device_count()} CUDA device(s) to torch")
    return device
