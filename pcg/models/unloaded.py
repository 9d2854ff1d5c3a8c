"""A model whose weights an engine holds: its prompts, its tokens and rows of its tables, read from its folder."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.models.checkpoint import resolve_folder
from pcg.models.contents import read_contents
from pcg.models.text_side import check_ids
from pcg.types import Utterance


class UnloadedModel:
    """A ``SpeechModel`` that is read from a folder without its weights.

    Attributes:
        ids: the model's own id of each token of the speech vocabulary.
        rows: number of tokens of the model, text included.
    """

    def __init__(
        self, path: str, ids: Int[Tensor, "vocab"], device: str | torch.device = "cpu", text: Any = None
    ) -> None:
        """
        Args:
            device: of the rows of its tables.
            text: its text side, needed for prompts only.

        Raises:
            FileNotFoundError, ValueError: there is no such folder, weights are missing, or an id is beyond its rows.
        """
        resolve_folder(path)  # downloads a model of the hub with its weights, which the engine needs
        contents = read_contents(path)
        if contents.problems:
            raise ValueError("; ".join(contents.problems))
        if contents.checkpoint is None or contents.table is None:
            raise ValueError(f"{path}: has no input table under a known name, which groups are built from")
        self.path, self.ids, self.device, self.text = path, ids, torch.device(device), text
        self._checkpoint, self._input_table = contents.checkpoint, contents.table
        self.rows, self.vocab_size, self.end = contents.checkpoint.shape(contents.table)[0], len(ids), len(ids) - 1
        check_ids(path, ids, self.rows)

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, prompt_tokens)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        own = source == "output" and "lm_head.weight" in self._checkpoint
        rows = self._checkpoint.rows("lm_head.weight" if own else self._input_table, self.ids)
        return rows.float().to(self.device)


class UnloadedHead:
    """A draft that reads the target (``pcg.models.eagle``); it has the target's tokens, prompts and tables."""

    def __init__(self, path: str, target: UnloadedModel) -> None:
        self.path, self.device, self._target = path, target.device, target
        self.ids, self.end, self.vocab_size = target.ids, target.end, target.vocab_size

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self._target.prompt(utterance, prompt_tokens)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        return self._target.embeddings(source)
