"""The drafts that can be trained: one that reads the target's states, and a Llama of its own weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pcg.models.checkpoint import Checkpoint, read_json, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.eagle_folder import states_read, unnested
from pcg.training.eagle import Eagle, View
from pcg.training.speech import SpeechLM
from pcg.training.teacher import Teacher


class ReadingStudent(nn.Module):
    """``Eagle``, with the target's embeddings and head."""

    def __init__(self, eagle: Eagle, reads: Sequence[int], budgets: Sequence[int] = ()) -> None:
        super().__init__()
        self.eagle, self.reads, self.budgets = eagle, reads, budgets

    def states(
        self, ids: Int[Tensor, "batch length"], teacher: Teacher, depths: int, view: View | None = None
    ) -> list[Tensor]:
        states = torch.cat([teacher.hidden[depth] for depth in self.reads], -1)
        return self.eagle(teacher.embed(ids), states, depths, view)

    def logits(self, states: Float[Tensor, "positions width"], teacher: Teacher) -> Float[Tensor, "positions vocab"]:
        return teacher.logits(states)

    def matrices(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.eagle.parameters() if parameter.ndim == 2]


class OwnStudent(nn.Module):
    """A Llama of its own weights over the bundled pair's tokens; its states do not depend on the depth."""

    def __init__(self, model: SpeechLM) -> None:
        super().__init__()
        self.model = model

    def states(self, ids: Int[Tensor, "batch length"], teacher: Teacher, depths: int) -> list[Tensor]:
        return [self.model.hidden(ids)]

    def logits(self, states: Float[Tensor, "positions width"], teacher: Teacher) -> Float[Tensor, "positions vocab"]:
        return self.model.logits(states)

    def matrices(self) -> list[nn.Parameter]:
        return self.model.matrices()


@dataclass(frozen=True)
class EagleDraft:
    """Makes and saves a ``ReadingStudent``.

    Args:
        reads: the target's states that it reads; state i comes after i layers, the last is normed.
        start: a folder to train further, or ``bundled:eagle``; None starts from the target's last layer.
        hidden: width of its MLP; None for the target's.
        budgets: each step also trains it on one of these budgets of its cache (``draft.budget``).
    """

    reads: list[int]
    start: str | None = None
    hidden: int | None = None
    budgets: list[int] = field(default_factory=list)

    def make(self, teacher: Teacher) -> ReadingStudent:
        eagle = Eagle(LlamaConfig.read(self._config(teacher), teacher.folder), len(self.reads))
        if self.start is None:
            eagle.start_from(*_last_layer(teacher.folder, teacher.model.config.num_hidden_layers))
        else:
            eagle.load(self._start(teacher.model.config.num_hidden_layers))
        return ReadingStudent(eagle, self.reads, self.budgets)

    def _start(self, layers: int) -> Path:
        assert self.start is not None
        folder = resolve_folder(self.start)
        reads = list(states_read(unnested(read_json(folder / "config.json")), layers, self.start))
        if reads != list(self.reads):
            raise ValueError(
                f"{self.start} reads states {reads}: set trainer.student.reads={reads}, or trainer.student.start=null"
            )
        return folder

    def save(self, student: ReadingStudent, folder: Path, teacher: Teacher) -> None:
        student.eagle.save(folder, self._config(teacher))

    def _config(self, teacher: Teacher) -> dict[str, Any]:
        config = json.loads((teacher.folder / "config.json").read_text())
        changes = {"architectures": ["LlamaForCausalLMEagle3"], "num_hidden_layers": 1, "reads": list(self.reads)}
        changes["intermediate_size"] = self.hidden or config["intermediate_size"]
        changes["model_type"] = "llama"  # for every target: the layer has none of Qwen's biases and norms
        return config | changes | {"target_fingerprint": teacher.fingerprint}


@dataclass(frozen=True)
class LlamaDraft:
    """Makes and saves an ``OwnStudent``.

    Args:
        llama, levels: as in ``pcg.training.pair.lm.LMTrainer``.
        start: a folder to train further; None for random weights.
    """

    llama: dict[str, Any]
    levels: list[int]
    start: str | None = None

    def make(self, teacher: Teacher) -> OwnStudent:
        model = SpeechLM(self.llama, self.levels)
        if self.start is not None:
            model.start_from(self.start, _phonemes(teacher))
        return OwnStudent(model)

    def save(self, student: OwnStudent, folder: Path, teacher: Teacher) -> None:
        student.model.export(folder, _phonemes(teacher))


def _phonemes(teacher: Teacher) -> dict[str, int]:
    return read_json(teacher.folder / "tokens.json")["phonemes"]


def _last_layer(folder: Path, layers: int) -> tuple[dict[str, Tensor], Tensor]:
    """Weights of the last layer and of the last norm of a Llama's folder."""
    checkpoint, prefix = Checkpoint(folder), f"model.layers.{layers - 1}."
    names = [name for name in checkpoint.names if name.startswith(prefix)]
    layer = {name.removeprefix(prefix): checkpoint.tensor(name, None) for name in names}
    return layer, checkpoint.tensor("model.norm.weight", None)
