"""Word and character error of generated speech, by any speech recogniser."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pcg.constraints import Language
from pcg.metrics.languages import UNSPACED, other_than_english
from pcg.metrics.pretrained import require, samples_of
from pcg.text import plain
from pcg.types import Audio, Figure, Utterance


@functools.cache
def _whisper_normaliser() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer  # compiles a large table of spellings

    return EnglishTextNormalizer()


_READ = {"&": "and", "@": "at", "+": "plus", "=": "equals", "×": "times", "÷": "divided by", "±": "plus or minus"}
_READ |= {"²": "squared", "³": "cubed", "§": "section", "№": "number", "℃": "°C", "℉": "°F"}
_SPOKEN = str.maketrans({sign: f" {words} " for sign, words in _READ.items()})
_DEGREES = re.compile(r"\s*°\s?([CF])?\b|\s*°")
_SCALES = {None: "", "C": " Celsius", "F": " Fahrenheit"}


def normalise(text: str) -> str:
    """One form for texts that say the same: lower case, no punctuation, numbers as digits, American spelling.

    Whisper's English normaliser (Radford et al. 2022, appendix C), with steps of ours. Before it, ``pcg.text.plain``;
    signs that are read aloud become their words; brackets go, or it would take what is in them for a subtitler's note
    and cut it. After it: it reads "one forty-five" as 145 but leaves a recogniser's "1:45" as "one 45" and "1.45" as it
    is, so a lone "one" (and "a" half) is a digit, and neighbouring numbers are one number. Tokens without a letter or
    digit go.
    """
    text = plain(text).translate(_SPOKEN)
    text = _DEGREES.sub(lambda match: f" degrees{_SCALES[match[1]]} ", text)
    text = re.sub(r"(?<=\d) and a half\b", ".5", re.sub(r"[()<>[\]{}…]", " ", text))
    words = " ".join(word for word in _whisper_normaliser()(text).split() if re.search(r"\w", word))
    return re.sub(r"(?<=\d)[ .](?=\d)", "", re.sub(r"\bone\b|\ba(?= (?:half|quarter)\b)", "1", words))


def figures_of(suffix: str) -> dict[str, Figure]:
    """Word and character error rate of the recogniser with this suffix."""
    of = suffix.replace("_", " ")
    return {
        f"wer{suffix}": Figure(f"WER{of}", "%", ".1f", "lower", (f"word_errors{suffix}", f"words{suffix}")),
        f"cer{suffix}": Figure(f"CER{of}", "%", ".1f", "lower", (f"char_errors{suffix}", f"chars{suffix}")),
    }


class WordErrors:
    """Word error rate (WER) and character error rate (CER) of a recogniser's transcript against the text.

    Unit: errors (substitutions + deletions + insertions) a reference word or character, over the corpus.
    Range: 0 to above 1. Direction: lower is better. Reference and transcript are normalised alike
    (``normalise``, or ``pcg.metrics.languages``); characters count spaces. In Chinese and others that are written
    without spaces a word is a character, so that WER is CER. Empty audio is an empty transcript: every word is deleted.

    Args:
        recogniser: 16 kHz float32 samples -> what they say. One that has ``many`` is given all clips at once, one
            that has ``prepare`` is told to fetch its model before a run decodes anything; its ``language`` is the
            one that it listens for.
        suffix: appended to every column and figure, to tell two recognisers apart ("_pocketsphinx").
        language: of the texts, by its code: ``en``, ``zh``, ``de``, ...

    Raises:
        MissingPart: jiwer or whisper-normalizer is not installed; or opencc, for Chinese.
        ValueError: the recogniser listens for another language.
    """

    def __init__(self, recogniser: Callable[[np.ndarray], str], suffix: str = "", language: Language = "en") -> None:
        for package in ("jiwer", "whisper_normalizer"):
            require(package, "WER")
        heard = getattr(recogniser, "language", language)
        if heard != language:
            raise ValueError(
                f"language={language}: the texts are in it, but {type(recogniser).__name__} listens for {heard}; "
                "metrics=paper has a recogniser for other languages"
            )
        self._recogniser = recogniser
        self._normalise = normalise if language == "en" else other_than_english(language)
        self._spaced = language not in UNSPACED
        self._suffix = suffix
        self.figures: Mapping[str, Figure] = figures_of(suffix)

    def prepare(self) -> None:
        getattr(self._recogniser, "prepare", lambda: None)()

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]:
        transcripts = self._transcripts([samples_of(clip) for clip in audio])
        return [self._score(heard, said.text) for heard, said in zip(transcripts, utterances, strict=True)]

    def _transcripts(self, clips: Sequence[np.ndarray]) -> list[str]:
        heard = [clip for clip in clips if len(clip)]
        many = getattr(self._recogniser, "many", lambda clips: map(self._recogniser, clips))
        transcripts = iter(many(heard))
        return [next(transcripts) if len(clip) else "" for clip in clips]

    def _score(self, transcript: str, text: str) -> dict[str, float | str | None]:
        import jiwer

        reference, hypothesis = self._normalise(text), self._normalise(transcript)
        letters, heard = (said if self._spaced else said.replace(" ", "") for said in (reference, hypothesis))
        columns: dict[str, float | str | None] = {
            "transcript": transcript,
            "word_errors": _errors(jiwer.process_words(reference, hypothesis)),
            "words": len(reference.split()),
            "char_errors": _errors(jiwer.process_characters(letters, heard)),
            "chars": len(letters),
        }
        return {f"{name}{self._suffix}": value for name, value in columns.items()}


def _errors(alignment: Any) -> int:
    return alignment.substitutions + alignment.deletions + alignment.insertions
