"""Tables of groups over all tokens of a model, read from its folder: no weights are loaded but rows of a table.

An engine's tokens are the model's own, text among them. Speech tokens are told by their names, and only they are
grouped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.config.build import build
from pcg.groups.cosine import Cosine
from pcg.groups.table import GroupTable
from pcg.models.checkpoint import Checkpoint, resolve_folder
from pcg.models.look import look, numbered
from pcg.models.phonemes import TOKENS, Phonemes


@dataclass
class Vectors:
    """What groups are built of where a model need not be there: rows of its tables over some of its tokens.

    Attributes:
        ids: the model's own, of each token of the speech vocabulary.
        checkpoint: its weights, opened.
        input_table: the name of the input table in it.
        device: where groups are to be built.
        end: the last of these tokens.
        rows: tokens of the model, text included.
    """

    ids: Int[Tensor, "vocab"]
    checkpoint: Checkpoint
    input_table: str
    device: torch.device

    def __post_init__(self) -> None:
        self.end, self.rows = len(self.ids) - 1, self.checkpoint.shape(self.input_table)[0]

    @classmethod
    def of(cls, path: str, ids: Int[Tensor, "vocab"], device: torch.device | None = None) -> Vectors:
        """
        Raises:
            FileNotFoundError, ValueError: there is no such folder, its weights are not whole, or it has fewer rows.
        """
        resolve_folder(path)  # fetches a model of the hub that is not here yet: the engine will want it whole
        found = look(path)
        if found.checkpoint is None or found.table is None:
            raise ValueError(
                f"{path}: no input table to build groups of: {'; '.join(found.problems) or 'unknown names'}"
            )
        vectors = cls(ids, found.checkpoint, found.table, device or torch.device("cpu"))
        if int(ids.max()) >= vectors.rows:
            raise ValueError(f"{path}: speech token id {int(ids.max())} is beyond its {vectors.rows} rows")
        return vectors

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Rows of the ``input`` or ``output`` table, float32."""
        own = source == "output" and "lm_head.weight" in self.checkpoint
        return self.checkpoint.rows("lm_head.weight" if own else self.input_table, self.ids).float().to(self.device)


def vectors_of(node: Mapping[str, Any], device: torch.device) -> Vectors:
    """Of a model as a config tells it (``conf/target``), by its text side.

    Raises:
        ValueError: it has no text side to tell its tokens by, or they are not those of its folder.
    """
    if not isinstance(node.get("text"), Mapping) or not isinstance(node.get("path"), str):
        raise ValueError(f"{node.get('_target_')} has no path and text side, by which an engine would know its tokens")
    return Vectors.of(node["path"], build(node["text"]).speech_ids, device)


def audio_ids(path: str) -> Int[Tensor, "tokens"]:
    """Audio tokens 0, 1, ... of a model's folder, by their names or as its ``tokens.json`` says.

    Raises:
        ValueError: there are none, or one is missing among them.
    """
    folder = resolve_folder(path)
    if (folder / TOKENS).is_file():
        return Phonemes(str(folder)).speech_ids[:-1]
    found = numbered(folder)
    if found is None or found.gap is not None:
        missing = "numbered speech tokens" if found is None else found.gap
        raise ValueError(
            f"{path}: the tokenizer lacks {missing}; `pcg inspect {path}` tells what its tokens are called"
        )
    return found.ids


def of_file(path: str, vocab_size: int) -> GroupTable:
    """A table that ``pcg groups`` has written.

    Raises:
        FileNotFoundError, ValueError: it is not there, or over another vocabulary.
    """
    table = GroupTable.load(path)
    if table.vocab_size != vocab_size:
        raise ValueError(
            f"{path}: groups over {table.vocab_size:,} tokens, but the model has {vocab_size:,}; "
            "`pcg groups target=... out=FILE` makes them for a model"
        )
    return table


def of_model(theta: float, model: str, vocab_size: int, center: bool = False) -> GroupTable:
    """The paper's groups from the model's input table: all audio tokens with a cosine above theta."""
    vectors = Vectors.of(model, audio_ids(model))
    return Cosine(theta, center).build(vectors.embeddings("input"), None).among(vectors.ids, vocab_size)


def in_words(table: GroupTable) -> str:
    """How many tokens have company and how much of it, for a log."""
    company = table.sizes[table.sizes > 1].double()
    if not len(company):
        return f"every one of {table.vocab_size:,} tokens alone: this is exact speculative decoding"
    return (
        f"{len(company):,} groups of {company.mean().item():.1f} tokens on average, {int(company.max()):,} at most; "
        f"{len(table) - len(company):,} of {table.vocab_size:,} tokens alone"
    )
