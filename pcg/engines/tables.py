"""Tables of groups over all tokens of a model, read from its folder: no weights are loaded but rows of a table.

An engine's tokens are the model's own, text among them. Speech tokens are told by their names, and only they are
grouped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.config.build import build
from pcg.groups.cosine import Cosine
from pcg.groups.table import GroupTable
from pcg.models.checkpoint import resolve_folder
from pcg.models.look import numbered
from pcg.models.phonemes import TOKENS, Phonemes
from pcg.models.unloaded import UnloadedHead, UnloadedModel


def unloaded(node: Mapping[str, Any], device: torch.device) -> UnloadedModel:
    """A model as a config names it (``conf/target``).

    Raises:
        ValueError: it has no text side to tell its tokens by, or they are not those of its folder.
    """
    if not isinstance(node.get("text"), Mapping) or not isinstance(node.get("path"), str):
        raise ValueError(f"{node.get('_target_')} has no path and text side, by which an engine would know its tokens")
    text = build(node["text"])
    return UnloadedModel(node["path"], text.speech_ids, device, text)


def unloaded_draft(node: Mapping[str, Any], target: UnloadedModel) -> UnloadedModel | UnloadedHead:
    """A draft likewise; one without a text side reads the target and has its tokens."""
    return unloaded(node, target.device) if "text" in node else UnloadedHead(node["path"], target)


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
    ids = audio_ids(model)
    vectors = UnloadedModel(model, ids).embeddings("input")
    return Cosine(theta, center).build(vectors, None).in_vocabulary(ids, vocab_size)


def in_words(table: GroupTable) -> str:
    """How many tokens have company and how much of it, for a log."""
    company = table.sizes[table.sizes > 1].double()
    if not len(company):
        return f"every one of {table.vocab_size:,} tokens alone: this is exact speculative decoding"
    return (
        f"{len(company):,} groups of {company.mean().item():.1f} tokens on average, {int(company.max()):,} at most; "
        f"{len(table) - len(company):,} of {table.vocab_size:,} tokens alone"
    )
