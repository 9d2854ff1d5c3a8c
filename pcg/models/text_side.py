"""What the text sides of all families share: tokenizers, names of speech tokens, and the two ends of a prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.text import says_something
from pcg.types import Utterance


@runtime_checkable
class TextSide(Protocol):
    """The text side of a model: the ids of its speech tokens, and the prompt that precedes speech."""

    speech_ids: Int[Tensor, "vocab"]  # the model's own id of each entry of the speech vocabulary

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]: ...


def check_text(utterance: Utterance, reserved: Sequence[str] = ()) -> None:
    """Raises ValueError for a text that has nothing to say, or that contains what names of tokens begin with.

    Args:
        reserved: what the names of the model's own tokens begin with.
    """
    if not says_something(utterance.text):
        raise ValueError(f"utterance {utterance.id}: nothing to say in {utterance.text!r}")
    for beginning in reserved:
        if beginning in f"{utterance.prompt_text} {utterance.text}":
            raise ValueError(
                f"utterance {utterance.id}: the text contains {beginning!r}, with which names of the model's own "
                "tokens begin"
            )


def check_ids(path: str, speech_ids: Int[Tensor, "vocab"], rows: int) -> None:
    """Raises ValueError for a text side whose speech tokens are beyond the model's ``rows``."""
    if (last := int(speech_ids.max())) >= rows:
        raise ValueError(f"{path}: speech token id {last} is beyond its {rows} rows")


def followed_by_voice(
    ids: Sequence[int], speech_ids: Int[Tensor, "vocab"], prompt_tokens: Int[Tensor, "length"] | None
) -> Int[Tensor, "prompt"]:
    """A prompt: the ids of its text, then those of the voice prompt's speech tokens."""
    voice = speech_ids[:0] if prompt_tokens is None else speech_ids[prompt_tokens.cpu()]
    return torch.cat([torch.tensor(ids), voice])


@lru_cache(maxsize=2)
def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in a folder. Two are cached: reading 193,800 entries takes seconds, and models may share one.

    Raises:
        FileNotFoundError: the folder has no tokenizer_config.json.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder}/tokenizer_config.json is missing: the text side needs the tokenizer")
    from transformers import AutoTokenizer  # takes seconds to import

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def numbered_names(
    tokenizer: Any, pattern: str, path: str, codes: int | None = None, first: int = 0, key: str = "speech"
) -> list[str]:
    """Names of numbered tokens, from number ``first`` on.

    Args:
        codes: how many there must be; None for all that there are.
        key: the key of the text side's config that holds the pattern.

    Raises:
        ValueError: the pattern does not have one ``{}``, the tokenizer has no such tokens, or a number is missing.
    """
    if pattern.count("{}") != 1:
        raise ValueError(f"text.{key}={pattern!r}: must be the name of {key} tokens, with one {{}} for the number")
    named = re.compile(r"(0|[1-9]\d*)".join(map(re.escape, pattern.split("{}"))))
    numbers = sorted(int(match[1]) for name in tokenizer.get_added_vocab() if (match := named.fullmatch(name)))
    numbers = [number for number in numbers if number >= first and (codes is None or number < first + codes)]
    if not numbers:
        raise ValueError(
            f"{path}: the tokenizer has no {key} tokens {pattern.format(first)}, {pattern.format(first + 1)}, ...; "
            f"`pcg inspect {path}` shows the names of its tokens; set text.{key} to theirs"
        )
    gap = next((expected for expected, number in enumerate(numbers, first) if number != expected), None)
    if gap is not None:
        raise ValueError(f"{path}: the tokenizer has {len(numbers)} {key} tokens, but {pattern.format(gap)} is missing")
    if codes is not None and len(numbers) < codes:
        raise ValueError(f"{path}: text.codes={codes}: the tokenizer has only {len(numbers)} {key} tokens")
    return [pattern.format(number) for number in numbers]
