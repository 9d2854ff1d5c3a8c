"""LLaSA's text side: its chat template, its markers and its speech tokens, all by name (arXiv 2502.04128)."""

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

    The user asks to convert the text; the assistant's turn has begun with ``<|SPEECH_GENERATION_START|>`` and the
    voice prompt's speech tokens, and the model goes on from there. With a voice prompt the text to convert is what
    the prompt says, then a space, then the text to say.

    Args:
        path: folder with the tokenizer, or a hub id.
        date: what the chat template is told to be today's date; Llama 3's otherwise inserts the real one, and a
            run of tomorrow would differ from today's.
        speech: what speech tokens are called, ``{}`` for the number.

    Raises:
        ValueError: the tokenizer is not one of LLaSA: what it lacks is named.
    """

    def __init__(self, path: str, date: str = "26 Jul 2024", speech: str = "<|s_{}|>") -> None:
        self._path, self._date = path, date
        self._tokenizer = tokenizer_of(resolve_folder(path))
        self.speech_names = (*audio_names(self._tokenizer, speech, path), "<|SPEECH_GENERATION_END|>")
        markers = [f"<|{marker}|>" for marker in MARKERS]
        unknown = self._tokenizer.unk_token_id
        known = self._tokenizer.convert_tokens_to_ids(markers)
        missing = [name for name, token in zip(markers, known, strict=True) if token is None or token == unknown]
        if missing:
            raise ValueError(f"{path}: the tokenizer does not know {', '.join(missing)}; it is not LLaSA's")
        self.speech_ids = torch.tensor(self._tokenizer.convert_tokens_to_ids(list(self.speech_names)))
        self._check_template(dict(zip(markers, known, strict=True)))

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """The ids of the chat with the text in it, then those of the voice prompt.

        Raises:
            ValueError: a text in which nothing is said, or one that spells a token of the model.
        """
        if not says_something(utterance.text):
            raise ValueError(f"utterance {utterance.id}: nothing to say in {utterance.text!r}")
        text = f"{utterance.prompt_text} {utterance.text}".strip()
        if "<|" in text:
            raise ValueError(f"utterance {utterance.id}: the text holds '<|', which begins the model's own tokens")
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
        """Raise ValueError where no prompt can be written: fine-tunes of base models have lost the chat template."""
        if not self._tokenizer.chat_template:
            raise ValueError(
                f"{self._path}: the tokenizer has no chat template, which writes LLaSA's prompts: copy "
                "chat_template.jinja, or chat_template of tokenizer_config.json, from the model that it was made from"
            )
        try:
            ids = self.prompt(Utterance("probe", "Hello."), None).tolist()
        except Exception as error:  # of a template that cannot be rendered; jinja's errors share no class with others
            raise ValueError(f"{self._path}: the chat template cannot write a prompt: {error}") from error
        lost = [name for name in list(markers)[:3] if markers[name] not in ids]
        if lost or ids[-1] != markers["<|SPEECH_GENERATION_START|>"]:
            raise ValueError(
                f"{self._path}: the chat template does not write LLaSA's prompt, which holds "
                f"{', '.join(list(markers)[:3])} and ends with the last of them: take that of the model that it was "
                "made from"
            )


@lru_cache(maxsize=2)
def tokenizer_of(folder: Path) -> Any:
    """The tokenizer in a folder. Two are kept: 193,800 entries take seconds to read, and target and draft may share it.

    Raises:
        FileNotFoundError: the folder has no tokenizer_config.json.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(f"{folder}/tokenizer_config.json is missing: the text side is read from the tokenizer")
    from transformers import AutoTokenizer  # seconds; needed only for models of this kind

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def audio_names(
    tokenizer: Any, pattern: str, path: str, codes: int | None = None, first: int = 0, key: str = "speech"
) -> list[str]:
    """Names of numbered tokens, from number ``first`` on; a codec decides later whether they are as many as its codes.

    Args:
        codes: how many of them there are; None for all.
        key: of the text side, which holds the pattern.

    Raises:
        ValueError: the pattern has not one ``{}``, or the tokenizer no such tokens, or there is a gap among them.
    """
    if pattern.count("{}") != 1:
        raise ValueError(f"text.{key}={pattern!r}: must be what {key} tokens are called, with one {{}} for the number")
    named = re.compile(r"(0|[1-9]\d*)".join(map(re.escape, pattern.split("{}"))))
    numbers = sorted(int(match[1]) for name in tokenizer.get_added_vocab() if (match := named.fullmatch(name)))
    numbers = [number for number in numbers if number >= first and (codes is None or number < first + codes)]
    if not numbers:
        raise ValueError(
            f"{path}: the tokenizer has no {key} tokens {pattern.format(first)}, {pattern.format(first + 1)}, ...; "
            f"`pcg inspect {path}` tells what its tokens are called, and text.{key} takes it"
        )
    gap = next((expected for expected, number in enumerate(numbers, first) if number != expected), None)
    if gap is not None:
        raise ValueError(f"{path}: the tokenizer has {len(numbers)} {key} tokens but no {pattern.format(gap)}")
    if codes is not None and len(numbers) < codes:
        raise ValueError(f"{path}: text.codes={codes}: the tokenizer has {len(numbers)} {key} tokens only")
    return [pattern.format(number) for number in numbers]
