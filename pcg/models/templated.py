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
from pcg.models.llasa import audio_names, tokenizer_of
from pcg.text import says_something
from pcg.types import Utterance

_VOICE = "{voice}"  # where a template has the tokens of the utterance's voice
_MARKER = re.compile(r"<[^<>\s{}]+>")  # <|NAME|>, <custom_token_3>


class Templated:
    """A template with the text in it, then the voice prompt's speech tokens; the model goes on from there.

    With a voice prompt the text is what the prompt says, then ``between``, then the text to say.

    Args:
        path: folder with the tokenizer, or a hub id.
        template: ``{}`` for the text; tokens by name; ``{voice}`` for those of the utterance's voice.
        speech: what speech tokens are called, ``{}`` for the number.
        end: what ends speech.
        codes: how many speech tokens are the codec's, where a family calls others alike; None for all.
        first: number of the first of them.
        slots: speech tokens of a frame, where each has codes of its own: token t belongs to slot
            ``t // (codes / slots)``. Groups never mix slots.
        between: stands between what the voice prompt says and the text; None where the family takes no voice prompts.
        phonemes: language of eSpeak NG that the text is written in the phonemes of; None for the text itself.
        voice: what the tokens of a voice are called, ``{}`` for the number; None without ``{voice}``.
        voice_length: how many of them a voice has.
        begun: whether the prompt begins with what the tokenizer puts before any text: Llama 3's ``<|begin_of_text|>``,
            nothing of Qwen's.

    Raises:
        ImportError: phonemes are asked for and eSpeak NG is not installed.
        ValueError: a template without one ``{}``, ``{voice}`` without ``voice`` or the reverse, codes that are no whole
            number of slots, or a tokenizer that lacks what is named.
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
            raise ValueError(f"text.template={template!r}: needs one {{}} for the text")
        if (_VOICE in template) != (voice is not None):
            raise ValueError(
                f"text.template={template!r}, text.voice={voice!r}: give both {_VOICE} and text.voice, or neither"
            )
        self._tokenizer, self._template, self._between = tokenizer_of(resolve_folder(path)), template, between
        self.speech_names = (*audio_names(self._tokenizer, speech, path, codes, first), end)
        self.slots = slots
        if (len(self.speech_names) - 1) % slots:
            raise ValueError(f"text.slots={slots}: {len(self.speech_names) - 1} codes cannot be shared out evenly")
        self._begin = _begin(self._tokenizer) if begun else []
        known = self._tokenizer.get_vocab()
        missing = [name for name in (end, *_MARKER.findall(template)) if name not in known]
        if missing:
            raise ValueError(f"{path}: the tokenizer does not know {', '.join(missing)}")
        self._written = phonemizer_of(phonemes) if phonemes is not None else str
        self._voices = () if voice is None else tuple(audio_names(self._tokenizer, voice, path, key="voice"))
        self._voice_length = voice_length
        self._refused = ("<|", speech.partition("{}")[0])  # what the names of the model's own tokens begin with
        self.speech_ids = torch.tensor([known[name] for name in self.speech_names])

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """Ids of the template with the text and the voice in it, then those of the voice prompt.

        Raises:
            ValueError: a text in which nothing is said or that spells a token of the model, a voice prompt where the
                family takes none, or no voice where it needs one.
        """
        if not says_something(utterance.text):
            raise ValueError(f"utterance {utterance.id}: nothing to say in {utterance.text!r}")
        if prompt_tokens is not None and self._between is None:
            raise ValueError(
                f"utterance {utterance.id}: has a voice prompt, and this family takes none: it has the voice that "
                "text.template names; choose texts without voices (dataset=texts)"
            )
        for sign in self._refused:
            if sign in f"{utterance.prompt_text} {utterance.text}":
                raise ValueError(
                    f"utterance {utterance.id}: the text holds {sign!r}, which begins the model's own tokens"
                )
        texts = [self._written(text) for text in (utterance.prompt_text, utterance.text) if text]
        before, after = self._template.replace(_VOICE, self._voice(utterance)).split("{}")
        ids = self._tokenizer.encode(f"{before}{(self._between or '').join(texts)}{after}", add_special_tokens=False)
        speech = torch.empty(0, dtype=torch.int64) if prompt_tokens is None else self.speech_ids[prompt_tokens.cpu()]
        return torch.cat([torch.tensor([*self._begin, *ids]), speech])

    def _voice(self, utterance: Utterance) -> str:
        """Names of the tokens of the utterance's voice; empty where the family has none."""
        if not self._voices:
            return ""
        if utterance.load_voice is None:
            raise ValueError(
                f"utterance {utterance.id}: this family needs {self._voice_length} tokens of the voice; dataset=tokens "
                "dataset.voice=COLUMN names the column that holds them"
            )
        codes = utterance.load_voice().tolist()
        if len(codes) != self._voice_length:
            raise ValueError(
                f"utterance {utterance.id}: its voice has {len(codes)} tokens; this family needs {self._voice_length}"
            )
        wrong = [code for code in codes if not 0 <= code < len(self._voices)]
        if wrong:
            raise ValueError(f"utterance {utterance.id}: voice token {wrong[0]} is not in 0 to {len(self._voices) - 1}")
        return "".join(self._voices[code] for code in codes)


def _begin(tokenizer: Any) -> list[int]:
    """Ids that a tokenizer puts before a text."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=added) for added in (False, True))
    return next(whole[:place] for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
