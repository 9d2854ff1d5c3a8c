"""The contents of a model folder, read without loading it: config, headers of the weights, names of tokens."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.models import hub
from pcg.models.checkpoint import Checkpoint, read_json, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.llama import Llama

_TABLES = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight")
_NUMBERED = re.compile(r"(<.*?)(0|[1-9]\d*)([^\d]*>)")  # <|s_12|>, <|speech_12|>, <custom_token_12>
_NOT_SPEECH = re.compile(r"reserved|unused|extra|fim|image|<\|?0x")


@dataclass(frozen=True)
class NumberedTokens:
    """Tokens whose names differ only in a number. A large family of these is speech.

    Attributes:
        pattern: their name, with ``{}`` for the number.
        ids: of the tokens 0, 1, ..., up to the first that is missing.
        count: of all of them.
    """

    pattern: str
    ids: Int[Tensor, "tokens"]
    count: int

    @property
    def gap(self) -> str | None:
        """The name of the first token that is missing although later ones exist; None without a gap."""
        return None if self.count == len(self.ids) else self.pattern.format(len(self.ids))


@dataclass(frozen=True)
class Contents:
    """What a model folder holds.

    Attributes:
        checkpoint: its weights, opened; None where some are missing, or refused.
        problems: error messages about what is missing or wrong.
        not_llama: why ``pcg.models.llama`` does not support it; None where it does.
    """

    folder: Path
    config: dict[str, Any]
    checkpoint: Checkpoint | None
    problems: tuple[str, ...]
    not_llama: str | None

    @property
    def parameters(self) -> int | None:
        """Count of the numbers in the weights; tied tables are stored once."""
        if self.checkpoint is None:
            return None
        return sum(math.prod(self.checkpoint.shape(name)) for name in self.checkpoint.names)

    @property
    def dtypes(self) -> str:
        assert self.checkpoint is not None
        return ", ".join(sorted({self.checkpoint.dtype(name) for name in self.checkpoint.names}))

    @property
    def table(self) -> str | None:
        """The name of the input table."""
        return next((name for name in _TABLES if self.checkpoint is not None and name in self.checkpoint), None)


def read_contents(path: str) -> Contents:
    """The contents of a folder, of ``bundled:NAME`` or of a hub id, whose weights are not downloaded.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, or its config.json cannot be read.
    """
    folder = hub.about(path) if hub.is_hub_id(path) else resolve_folder(path)
    assert folder is not None
    config = read_json(folder / "config.json")
    problems, checkpoint, not_llama = [], None, None
    try:
        checkpoint = Checkpoint(folder)
    except (FileNotFoundError, ValueError) as error:
        problems.append(str(error))
    try:
        LlamaConfig.read(config, folder)
    except (KeyError, ValueError) as error:
        not_llama = str(error)
    if checkpoint is not None and not_llama is None:
        try:  # checks names and shapes only
            Llama(Checkpoint(folder, shapes_only=True), torch.float32, torch.device("meta"), None)
        except ValueError as error:
            problems.append(str(error))
    return Contents(folder, config, checkpoint, tuple(problems), not_llama)


def local_folder(path: str) -> Path | None:
    """The folder of a model, complete or not, if it is on this machine; nothing is downloaded."""
    folder = hub.about(path, download=False) if hub.is_hub_id(path) else resolve_folder(path)
    return folder if folder is not None and folder.is_dir() else None


def numbered_tokens(folder: Path) -> NumberedTokens | None:
    """The largest family of numbered tokens in a tokenizer's files; None if there is none.

    Raises:
        ValueError: a file is not valid JSON.
    """
    families: dict[str, dict[int, int]] = {}
    for name, token in _names_and_ids(folder):
        match = _NUMBERED.fullmatch(name)
        if match and not _NOT_SPEECH.search(name):
            families.setdefault(f"{match[1]}{{}}{match[3]}", {})[int(match[2])] = token
    if not families:
        return None
    pattern, ids = max(families.items(), key=lambda item: len(item[1]))
    unbroken = next(number for number in range(len(ids) + 1) if number not in ids)
    return NumberedTokens(
        pattern, torch.tensor([ids[number] for number in range(unbroken)], dtype=torch.int64), len(ids)
    )


def _names_and_ids(folder: Path) -> Iterator[tuple[str, int]]:
    """Name and id of every token in a tokenizer's files, added tokens first."""
    if (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        yield from ((token["content"], token["id"]) for token in content.get("added_tokens", []))
        vocabulary = content.get("model", {}).get("vocab", {})
        yield from vocabulary.items() if isinstance(vocabulary, dict) else ()
    if (folder / "added_tokens.json").is_file():
        yield from read_json(folder / "added_tokens.json").items()
