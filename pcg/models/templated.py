"""The text side of models whose prompt is one line of text: NeuTTS, CosyVoice and the like, all tokens by name."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.constraints import Limit
from pcg.models.checkpoint import resolve_folder
from pcg.models.espeak import phonemizer_of
from pcg.models.llasa import audio_names, tokenizer_of
from pcg.text import says_something
from pcg.types import Utterance


class Templated:
    """A template with the text in it, then the voice prompt's speech tokens; the model goes on from there.

    With a voice prompt the text is what the prompt says, then ``between``, then the text to say.

    Args:
        path: folder with the tokenizer, or a hub id.
        template: ``{}`` for the text; tokens by name.
        speech: what speech tokens are called, ``{}`` for the number.
        end: what ends speech.
        codes: how many speech tokens are the codec's, where a family calls others alike; None for all.
        between: what stands between what the voice prompt says and the text.
        phonemes: language of eSpeak NG that the text is written in the phonemes of; None for the text itself.

    Raises:
        ImportError: phonemes are asked for and eSpeak NG is not installed.
        ValueError: the template has not one ``{}``, or the tokenizer lacks what is named.
    """

    def __init__(
        self,
        path: str,
        template: str,
        speech: str,
        end: str,
        phonemes: str | None,
        codes: Limit = None,
        between: str = " ",
    ) -> None:
        if template.count("{}") != 1:
            raise ValueError(f"text.template={template!r}: needs one {{}} for the text")
        self._tokenizer, self._template, self._between = tokenizer_of(resolve_folder(path)), template, between
        self.speech_names = (*audio_names(self._tokenizer, speech, path, codes), end)
        known = self._tokenizer.get_vocab()
        missing = [name for name in (end, *_markers(template)) if name not in known]
        if missing:
            raise ValueError(f"{path}: the tokenizer does not know {', '.join(missing)}")
        self._written = phonemizer_of(phonemes) if phonemes is not None else str
        self.speech_ids = torch.tensor([known[name] for name in self.speech_names])

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """Raises ValueError for a text in which nothing is said, and for one that spells a token of the model."""
        if not says_something(utterance.text):
            raise ValueError(f"utterance {utterance.id}: nothing to say in {utterance.text!r}")
        if "<|" in f"{utterance.prompt_text} {utterance.text}":
            raise ValueError(f"utterance {utterance.id}: the text holds '<|', which begins the model's own tokens")
        said = [self._written(text) for text in (utterance.prompt_text, utterance.text) if text]
        before, after = self._template.split("{}")
        ids = self._tokenizer.encode(f"{before}{self._between.join(said)}{after}", add_special_tokens=False)
        speech = torch.empty(0, dtype=torch.int64) if prompt_tokens is None else self.speech_ids[prompt_tokens.cpu()]
        return torch.cat([torch.tensor(ids), speech])


def _markers(template: str) -> list[str]:
    """``<|NAME|>`` of a template, in order."""
    return [f"<|{part.split('|>')[0]}|>" for part in template.split("<|")[1:]]
