"""LLaSA's text side (arXiv 2502.04128): its chat template, its markers and its speech tokens, found by name."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.models.checkpoint import resolve_folder
from pcg.models.text_side import check_text, followed_by_voice, numbered_names, tokenizer_of
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
        self.speech_names = (*numbered_names(self._tokenizer, speech, path), "<|SPEECH_GENERATION_END|>")
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
        check_text(utterance, ["<|"])
        text = f"{utterance.prompt_text} {utterance.text}".strip()
        chat = [
            {"role": "user", "content": f"{_REQUEST}<|TEXT_UNDERSTANDING_START|>{text}<|TEXT_UNDERSTANDING_END|>"},
            {"role": "assistant", "content": "<|SPEECH_GENERATION_START|>"},
        ]
        ids = self._tokenizer.apply_chat_template(
            chat, tokenize=True, return_dict=False, continue_final_message=True, date_string=self._date
        )
        return followed_by_voice(ids, self.speech_ids, prompt_tokens)

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
