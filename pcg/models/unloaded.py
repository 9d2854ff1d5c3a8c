"""A model whose weights are not loaded, as where an engine holds them: its prompts, its tokens, rows of its tables."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.models.checkpoint import resolve_folder
from pcg.models.look import look
from pcg.types import Utterance


class UnloadedModel:
    """See ``pcg.interfaces.SpeechModel``.

    Attributes:
        ids: the model's own, of each token of the speech vocabulary.
        rows: tokens of the model, text included.
    """

    def __init__(
        self, path: str, ids: Int[Tensor, "vocab"], device: str | torch.device = "cpu", text: Any = None
    ) -> None:
        """
        Args:
            device: where rows of its tables go.
            text: its text side, which prompts need.

        Raises:
            FileNotFoundError, ValueError: there is no such folder, its weights are not whole, or it has fewer rows.
        """
        resolve_folder(path)  # fetches a model of the hub that is not here yet: the engine will want it whole
        found = look(path)
        if found.problems:
            raise ValueError("; ".join(found.problems))
        if found.checkpoint is None or found.table is None:
            raise ValueError(f"{path}: no input table to build groups of: unknown names")
        self.path, self.ids, self.device, self.text = path, ids, torch.device(device), text
        self._checkpoint, self._input_table = found.checkpoint, found.table
        self.rows, self.vocab_size, self.end = found.checkpoint.shape(found.table)[0], len(ids), len(ids) - 1
        if int(ids.max()) >= self.rows:
            raise ValueError(f"{path}: speech token id {int(ids.max())} is beyond its {self.rows} rows")

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, prompt_tokens)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        own = source == "output" and "lm_head.weight" in self._checkpoint
        rows = self._checkpoint.rows("lm_head.weight" if own else self._input_table, self.ids)
        return rows.float().to(self.device)


class UnloadedHead:
    """A draft that reads the target (``pcg.models.eagle``): tokens, prompts and tables are the target's."""

    def __init__(self, path: str, target: UnloadedModel) -> None:
        self.path, self.device, self._target = path, target.device, target
        self.ids, self.end, self.vocab_size = target.ids, target.end, target.vocab_size

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self._target.prompt(utterance, prompt_tokens)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        return self._target.embeddings(source)
