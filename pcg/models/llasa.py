"""LLaSA's text side (arXiv 2502.04128): its chat template, its markers and its speech tokens, found by name."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.models.checkpoint import resolve_folder
from pcg.text import says_something
from pcg.types import Utterance

MARKERS = ("TEXT_UNDERSTANDING_START", "TEXT_UNDERSTANDING_END", "SPEECH_GENERATION_START", "SPEECH_GENERATION_END")
_REQUEST = "Convert the text to speech:"


class Llasa:
    """Prompts as on LLaSA's model cards, and the ids of its speech tokens.

    The user's turn asks to convert the text; the assistant's turn begins with ``<|SPEECH_GENERATION_START|>`` and the
    voice prompt's speech tokens, and the model continues it. With a voice prompt, the text to convert is the text of
    the voice prompt, a space and the text to say.

    Args:
        path: folder with the tokenizer, or a hub id.
        date: today's date for the chat template. Llama 3's would otherwise insert the real date, and the same run would
            differ from day to day.
        speech: name of speech tokens, with ``{}`` for the number.

    Raises:
        ValueError: the tokenizer lacks what LLaSA's has; the message names it.
    """

    def __init__(self, path: str, date: str = "26 Jul 2024", speech: str = "<|s_{}|>") -> None:
        self._path, self._date = path, date
        self._tokenizer = tokenizer_of(resolve_folder(path))
        self.speech_names = (*audio_names(self._tokenizer, speech, path), "<|SPEECH_GENERATION_END|>")
        markers = [f"<|{marker}|>" for marker in MARKERS]
        unknown = self._tokenizer.unk_token_id
        marker_ids = self._tokenizer.convert_tokens_to_ids(markers)
        missing = [name for name, token in zip(markers, marker_ids, strict=True) if token is None or token == unknown]
        if missing:
            raise ValueError(f"{path}: the tokenizer lacks {', '.join(missing)}, so it is not LLaSA's")
        self.speech_ids = torch.tensor(self._tokenizer.convert_tokens_to_ids(list(self.speech_names)))
        self._check_template(dict(zip(markers, marker_ids, strict=True)))

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """The ids of the chat that holds the text, then those of the voice prompt.

        Raises:
            ValueError: the text has nothing to say, or contains the name of a token of the model.
        """
        if not says_something(utterance.text):
            raise ValueError(f"utterance {utterance.id}: nothing to say in {utterance.text!r}")
        text = f"{utterance.prompt_text} {utterance.text}".strip()
        if "<|" in text:
            raise ValueError(
                f"utterance {utterance.id}: the text contains '<|', with which names of the model's own tokens begin"
            )
        chat = [
            {"role": "user", "content": f"{_REQUEST}<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"},
            {"role": "assistant", "content": "<|SPEECH_GENERATION_START|>"},
        ]
        ids = self._tokenizer.apply_chat_template(
            chat, tokenize=True, return_dict=False, continue_final_message=True, date_string=self._date
        )
        speech = torch.empty(0, dtype=torch.int64) if prompt_tokens is None else self.speech_ids[prompt_tokens.cpu()]
        return torch.cat([torch.tensor(ids), speech])

    def _check_template(self, markers: dict[str, int]) -> None:
        """Raises ValueError where the template writes no prompt; fine-tunes of base models often lack the template."""
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"{self._path}: the tokenizer has no chat template, which is needed for prompts: copy "
                "chat_template.jinja, or chat_template of tokenizer_config.json, from the model that it was made from"
            )
        try:
            ids = self.prompt(Utterance("probe", "Hello."), None).tolist()
        except Exception as error:  # a template may raise any error when it is rendered
            raise ValueError(f"{self._path}: the chat template cannot write a prompt: {error}") from error
        absent = [name for name in list(markers)[:3] if markers[name] not in ids]
        if absent or ids[-1] != markers["<|SPEECH_GENERATION_START|>"]:
            raise ValueError(
                f"{self._path}: the chat template does not write LLaSA's prompt, which contains "
                f"{', '.join(list(markers)[:3])} and ends with the last of them: copy the template of the model that "
                "it was made from"
            )


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


def audio_names(
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
