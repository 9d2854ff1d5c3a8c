"""Group tables over all tokens of a model, built from its folder; of its weights only rows of one table are read.

An engine's tokens are the model's own, text included. Speech tokens are recognised by their names, and only these are
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
from pcg.models.contents import numbered_tokens
from pcg.models.phonemes import TOKENS, Phonemes
from pcg.models.unloaded import UnloadedHead, UnloadedModel


def unloaded(node: Mapping[str, Any], device: torch.device) -> UnloadedModel:
    """The model of a config node (``conf/target``), without its weights.

    Raises:
        ValueError: the node has no path or text side, or the text side does not fit the folder.
    """
    if not isinstance(node.get("text"), Mapping) or not isinstance(node.get("path"), str):
        raise ValueError(f"{node.get('_target_')} has no path and text, which an engine needs to find speech tokens")
    text = build(node["text"])
    return UnloadedModel(node["path"], text.speech_ids, device, text)


def unloaded_draft(node: Mapping[str, Any], target: UnloadedModel) -> UnloadedModel | UnloadedHead:
    """The draft of a config node, likewise; one without ``text`` reads the target and has its tokens."""
    return unloaded(node, target.device) if "text" in node else UnloadedHead(node["path"], target)


def audio_ids(path: str) -> Int[Tensor, "tokens"]:
    """Ids of audio tokens 0, 1, ... of a model's folder, found by their names or in its ``tokens.json``.

    Raises:
        ValueError: there are none, or one is missing.
    """
    folder = resolve_folder(path)
    if (folder / TOKENS).is_file():
        return Phonemes(str(folder)).speech_ids[:-1]
    family = numbered_tokens(folder)
    if family is None or family.gap is not None:
        missing = "numbered speech tokens" if family is None else family.gap
        raise ValueError(f"{path}: the tokenizer lacks {missing}; `pcg inspect {path}` shows the names of its tokens")
    return family.ids


def of_file(path: str, vocab_size: int) -> GroupTable:
    """A table written by ``pcg groups``.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or its table is for another vocabulary.
    """
    table = GroupTable.load(path)
    if table.vocab_size != vocab_size:
        raise ValueError(
            f"{path} has groups over {table.vocab_size:,} tokens, but the model has {vocab_size:,}: "
            "run `pcg groups target=... out=FILE` for this model"
        )
    return table


def of_model(theta: float, model: str, vocab_size: int, center: bool = False) -> GroupTable:
    """The paper's groups, built from the model's input table: audio tokens whose cosine is above theta."""
    ids = audio_ids(model)
    vectors = UnloadedModel(model, ids).embeddings("input")
    return Cosine(theta, center).build(vectors, None).in_vocabulary(ids, vocab_size)
