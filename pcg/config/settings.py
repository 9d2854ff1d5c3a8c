"""The keys of ``conf/run.yaml`` that the runner reads itself, with their types and ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch

from pcg.config.build import is_built
from pcg.config.values import study_folder
from pcg.constraints import FROM_0, FROM_1, SHARE, Constraint, Device, one_of, up_to
from pcg.sampling import RAS, PenaltyWindow, RepetitionPenalty, Sampling, Temperature, TopK, TopP

Node = Mapping[str, Any]  # of a config: ``_target_`` names a constructor, the other keys are its arguments
# Where groups take their embeddings from: a model's input or output table, or the codec's codebook.
Source = Literal["target_input", "target_output", "draft_input", "draft_output", "codec"]
SOURCES: tuple[str, ...] = get_args(Source)


@dataclass(frozen=True)
class Decoding:
    """The ``decoding`` group."""

    gamma: Annotated[int, up_to(1_000)]
    batch_size: Annotated[int, up_to(100_000)]
    max_tokens: Annotated[int, up_to(10_000_000)]
    temperature: Temperature
    top_k: TopK
    top_p: TopP
    repetition_penalty: RepetitionPenalty
    baseline: bool
    mode: Literal["speculative", "law", "truncated"] = "speculative"
    candidates: Annotated[int, up_to(1_000)] = 1
    compile: bool | Literal["auto"] = "auto"
    sound_every: Annotated[int, FROM_1] | None = None
    chunk: Annotated[int, up_to(100_000)] = 25
    penalty_window: PenaltyWindow = None
    ras: RAS | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.penalty_window, self.ras
        )

    @classmethod
    def of(cls, node: Node) -> Decoding:
        ras = node.get("ras")
        return cls(**{**node, "ras": None if ras is None else RAS(**ras)})


@dataclass(frozen=True)
class Gpu:
    """A GPU as its maker states it: bytes, bytes a second, dense bfloat16 operations a second."""

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

    gpu: Annotated[str, one_of(*GPUS)] = "h100"
    alpha: Annotated[float, SHARE] = 0.6
    rival: Annotated[float, SHARE] = 0.2
    group_size: Annotated[int, FROM_1] = 141
    codes: Annotated[int, FROM_1] = 65_536
    prompt_tokens: Annotated[int, FROM_0] = 500

    @property
    def rows(self) -> int:
        """Rows of the speech vocabulary: the codes, and end-of-speech."""
        return self.codes + 1


@dataclass(frozen=True)
class Paths:
    outputs: str


@dataclass(frozen=True)
class Metrics:
    """The ``metrics`` group: a node for each metric, by name, and when audio is scored."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    when: Literal["inline", "after"] = "inline"


_FOLDER = Constraint(
    lambda value: re.fullmatch(r"[\w+-][\w.+-]*", value) is not None and len(value.encode()) <= 200,
    "a folder name of letters, digits, _ + - and dots, of at most 200 bytes",
)


@dataclass(frozen=True)
class Settings:
    """The whole config of a run. What is built from it is a node, None where the choice is ``none``."""

    study: Annotated[str, _FOLDER]
    seed: Annotated[int, FROM_0]
    device: Device
    threads: Annotated[int, up_to(10_000)]
    max_failures: Annotated[int, FROM_0]
    paths: Paths
    target: Node
    draft: Node | None
    codec: Node | None
    dataset: Node
    grouping: Node
    decoding: Decoding
    metrics: Metrics
    logger: Node | None
    devices: Annotated[int, up_to(10_000)] = 1
    dry: bool = False
    status: bool = False
    objective: dict[str, Any] | None = None
    plan: Plan = Plan()  # it is frozen
    engine: Node | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Settings:
        """The settings of a config that ``pcg.config.validate.check`` has checked."""
        nodes = {key: config.get(key) for key in ("draft", "codec", "logger", "engine")}
        metrics = config.get("metrics") or {}
        return cls(
            **{
                **config,
                **{key: node if is_built(node) else None for key, node in nodes.items()},
                "paths": Paths(**config["paths"]),
                "decoding": Decoding.of(config["decoding"]),
                "metrics": Metrics(metric_nodes(metrics), metrics.get("when", "inline")),
                "plan": Plan(**config.get("plan") or {}),
            }
        )

    @property
    def together(self) -> int:
        """Utterances of a batch: they are handed to the decoder, and recorded, together."""
        return self.decoding.batch_size if self.engine is None else self.engine["window"]

    @property
    def at_once(self) -> int:
        """Utterances that are decoded at the same time."""
        return self.decoding.batch_size if self.engine is None else self.engine["concurrency"]

    @property
    def scored_inline(self) -> bool:
        """Whether each batch is scored right after it is decoded, as it also is without a codec: there is no audio."""
        return self.metrics.when == "inline" or self.codec is None

    @property
    def study_folder(self) -> Path:
        return study_folder(self.paths.outputs, self.study)


def metric_nodes(metrics: Mapping[str, Any] | None) -> dict[str, Node]:
    """The nodes of a config's metrics, by name; none for ``metrics=none``."""
    return {name: node for name, node in (metrics or {}).items() if is_built(node)}


def pick_device(name: str) -> torch.device:
    """The device to run on.

    Raises:
        ValueError: the config names a CUDA device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"device={name!r}: this machine offers {torch.cuda.device_count()} CUDA device(s) to torch")
    return device
