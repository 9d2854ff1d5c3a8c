"""The text side of models whose prompt is one line of text (NeuTTS, CosyVoice, Orpheus, Spark-TTS), tokens by name."""

from __future__ import annotations

import re
from typing import Annotated, Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.constraints import FROM_0, FROM_1, Limit
from pcg.models.checkpoint import resolve_folder
from pcg.models.espeak import phonemizer_of
from pcg.models.text_side import check_text, followed_by_voice, numbered_names, tokenizer_of
from pcg.types import Utterance

_VOICE = "{voice}"  # where a template has the tokens of the utterance's voice
_MARKER = re.compile(r"<[^<>\s{}]+>")  # <|NAME|>, <custom_token_3>


class Templated:
    """A template that holds the text, followed by the voice prompt's speech tokens, which the model continues.

    With a voice prompt, the text is that of the voice prompt, ``between`` and the text to say.

    Args:
        path: folder with the tokenizer, or a hub id.
        template: has ``{}`` for the text, names of tokens, and ``{voice}`` for the tokens of the utterance's voice.
        speech: name of speech tokens, with ``{}`` for the number.
        end: name of the token that ends speech.
        codes: how many speech tokens belong to the codec, where other tokens have such names too; None for all.
        first: number of the first of them.
        slots: speech tokens of a frame, where each place in a frame has codes of its own: token t belongs to slot
            ``t // (codes / slots)``. Groups never mix slots.
        between: text between that of the voice prompt and the text to say; None where the family has no voice prompts.
        phonemes: language of eSpeak NG, to write the text in phonemes; None for the text itself.
        voice: name of the tokens of a voice, with ``{}`` for the number; None without ``{voice}``.
        voice_length: how many tokens a voice has.
        begun: whether the prompt begins with the token that the tokenizer puts before any text: Llama 3's
            ``<|begin_of_text|>``; Qwen has none.

    Raises:
        ImportError: ``phonemes`` is set and eSpeak NG is not installed.
        ValueError: the template does not have one ``{}``; only one of ``{voice}`` and ``voice`` is there; the codes
            cannot be divided among the slots; or the tokenizer lacks a token.
    """

    def __init__(
        self,
        path: str,
        template: str,
        speech: str,
        end: str,
        phonemes: str | None,
        codes: Limit = None,
        between: str | None = " ",
        first: Annotated[int, FROM_0] = 0,
        slots: Annotated[int, FROM_1] = 1,
        voice: str | None = None,
        voice_length: Annotated[int, FROM_0] = 0,
        begun: bool = False,
    ) -> None:
        if template.count("{}") != 1:
            raise ValueError(f"text.template={template!r}: must have one {{}} for the text")
        if (_VOICE in template) != (voice is not None):
            raise ValueError(
                f"text.template={template!r}, text.voice={voice!r}: give both {_VOICE} and text.voice, or neither"
            )
        self._tokenizer, self._template, self._between = tokenizer_of(resolve_folder(path)), template, between
        self.speech_names = (*numbered_names(self._tokenizer, speech, path, codes, first), end)
        self.slots = slots
        if (len(self.speech_names) - 1) % slots:
            raise ValueError(
                f"text.slots={slots}: {len(self.speech_names) - 1} codes cannot be divided evenly among them"
            )
        self._begin = _begin(self._tokenizer) if begun else []
        vocabulary = self._tokenizer.get_vocab()
        missing = [name for name in (end, *_MARKER.findall(template)) if name not in vocabulary]
        if missing:
            raise ValueError(f"{path}: the tokenizer lacks {', '.join(missing)}")
        self._written = phonemizer_of(phonemes) if phonemes is not None else str
        self._voices = () if voice is None else tuple(numbered_names(self._tokenizer, voice, path, key="voice"))
        self._voice_length = voice_length
        self._reserved = ("<|", speech.partition("{}")[0])
        self.speech_ids = torch.tensor([vocabulary[name] for name in self.speech_names])

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """Ids of the template that holds the text and the voice, then those of the voice prompt.

        Raises:
            ValueError: the text has nothing to say or contains the name of a token of the model; there is a voice
                prompt and the family has none; or there is no voice and the family needs one.
        """
        check_text(utterance, self._reserved)
        if prompt_tokens is not None and self._between is None:
            raise ValueError(
                f"utterance {utterance.id} has a voice prompt, but this family speaks in the voice that text.template "
                "names: choose texts without voices (dataset=texts)"
            )
        texts = [self._written(text) for text in (utterance.prompt_text, utterance.text) if text]
        before, after = self._template.replace(_VOICE, self._voice(utterance)).split("{}")
        ids = self._tokenizer.encode(f"{before}{(self._between or '').join(texts)}{after}", add_special_tokens=False)
        return followed_by_voice([*self._begin, *ids], self.speech_ids, prompt_tokens)

    def _voice(self, utterance: Utterance) -> str:
        """Names of the tokens of the utterance's voice; empty for a family without such tokens."""
        if not self._voices:
            return ""
        if utterance.load_voice is None:
            raise ValueError(
                f"utterance {utterance.id}: this family needs {self._voice_length} tokens of the voice; name the "
                "column that holds them: dataset=tokens dataset.voice=COLUMN"
            )
        codes = utterance.load_voice().tolist()
        if len(codes) != self._voice_length:
            raise ValueError(
                f"utterance {utterance.id}: its voice has {len(codes)} tokens; this family needs {self._voice_length}"
            )
        unknown = [code for code in codes if not 0 <= code < len(self._voices)]
        if unknown:
            raise ValueError(f"utterance {utterance.id}: voice token {unknown[0]} exceeds 0 to {len(self._voices) - 1}")
        return "".join(self._voices[code] for code in codes)


def _begin(tokenizer: Any) -> list[int]:
    """Ids that a tokenizer puts before a text."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=added) for added in (False, True))
    return next(whole[:start] for start in range(len(whole)) if whole[start : start + len(bare)] == bare)
