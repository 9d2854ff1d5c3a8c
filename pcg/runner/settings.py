"""The keys of ``conf/run.yaml`` that the runner reads itself, with their types and ranges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pcg.sampling import Sampling


@dataclass(frozen=True)
class Decoding:
    """The ``decoding`` group. Raises one ValueError that names every value out of range."""

    gamma: int
    batch_size: int
    max_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    repetition_penalty: float
    baseline: bool

    def __post_init__(self) -> None:
        wrong = [f"{name}={getattr(self, name)}: 1 or more" for name in ("gamma", "batch_size", "max_tokens")
                 if getattr(self, name) < 1]  # fmt: skip
        try:
            _ = self.sampling
        except ValueError as error:
            wrong.append(str(error).removeprefix("sampling: "))
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.repetition_penalty)


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

    def __post_init__(self) -> None:
        wrong = [
            message
            for bad, message in [
                (not re.fullmatch(r"[\w.+-]+", self.study) or self.study.startswith("."),
                 f"study={self.study!r}: a folder name of letters, digits, _ . + -"),
                (self.seed < 0, f"seed={self.seed}: 0 or more"),
                (self.threads < 1, f"threads={self.threads}: 1 or more"),
                (self.max_failures < 0, f"max_failures={self.max_failures}: 0 or more"),
                (not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device),
                 f"device={self.device!r}: auto, cpu, cuda or cuda:N"),
            ]
            if bad
        ]  # fmt: skip
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def study_folder(self) -> Path:
        return Path(self.paths["outputs"]) / self.study


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
