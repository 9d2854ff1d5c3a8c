"""Word and character error rates of generated speech, with any speech recogniser."""

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
    """One form for texts that read the same: lower case, no punctuation, numbers as digits, American spelling.

    Whisper's English normaliser (Radford et al. 2022, appendix C) with steps of ours. Before it: ``pcg.text.plain``;
    signs that are read aloud become words; brackets are removed, because it deletes what is in them as a subtitler's
    note. After it: tokens without a letter or digit are removed, "one" alone (and "a" before half or quarter) becomes
    1, and neighbouring numbers become one number, because it turns "one forty-five" into 145, but "1:45" into "one 45".
    """
    text = plain(text).translate(_SPOKEN)
    text = _DEGREES.sub(lambda match: f" degrees{_SCALES[match[1]]} ", text)
    text = re.sub(r"(?<=\d) and a half\b", ".5", re.sub(r"[()<>[\]{}…]", " ", text))
    words = " ".join(word for word in _whisper_normaliser()(text).split() if re.search(r"\w", word))
    return re.sub(r"(?<=\d)[ .](?=\d)", "", re.sub(r"\bone\b|\ba(?= (?:half|quarter)\b)", "1", words))


def figures_of(suffix: str) -> dict[str, Figure]:
    """The declarations of word and character error rate, for the recogniser with this suffix."""
    of = suffix.replace("_", " ")
    return {
        f"wer{suffix}": Figure(f"WER{of}", "%", ".1f", "lower", (f"word_errors{suffix}", f"words{suffix}")),
        f"cer{suffix}": Figure(f"CER{of}", "%", ".1f", "lower", (f"char_errors{suffix}", f"chars{suffix}")),
    }


class WordErrors:
    """Word error rate (WER) and character error rate (CER) of a recogniser's transcript against the text.

    Unit: errors (substitutions + deletions + insertions) per word or character of the text, over the corpus. Range: 0
    to above 1. Direction: lower is better. Text and transcript are normalised alike (``normalise``, or
    ``pcg.metrics.languages``); spaces count as characters. In languages that are written without spaces, such as
    Chinese, a word is a character, so that WER is CER. Empty audio has an empty transcript: every word is deleted.

    Args:
        recogniser: 16 kHz float32 samples -> transcript. If it has ``many``, that gets all clips at once; if it has
            ``prepare``, that is called before a run decodes anything; ``language`` is the one it transcribes.
        suffix: appended to every column and figure, to distinguish two recognisers ("_pocketsphinx").
        language: code of the texts' language: ``en``, ``zh``, ``de``, ...

    Raises:
        MissingPart: jiwer, whisper-normalizer or, for Chinese, opencc is not installed.
        ValueError: the recogniser transcribes another language.
    """

    def __init__(self, recogniser: Callable[[np.ndarray], str], suffix: str = "", language: Language = "en") -> None:
        for package in ("jiwer", "whisper_normalizer"):
            require(package, "WER")
        transcribed = getattr(recogniser, "language", language)
        if transcribed != language:
            raise ValueError(
                f"language={language}, but {type(recogniser).__name__} transcribes {transcribed}; set metrics=paper, "
                "whose recogniser takes other languages"
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
        pairs = zip(transcripts, utterances, strict=True)
        return [self._score(transcript, utterance.text) for transcript, utterance in pairs]

    def _transcripts(self, clips: Sequence[np.ndarray]) -> list[str]:
        many = getattr(self._recogniser, "many", lambda clips: map(self._recogniser, clips))
        transcripts = iter(many([clip for clip in clips if len(clip)]))
        return [next(transcripts) if len(clip) else "" for clip in clips]

    def _score(self, transcript: str, text: str) -> dict[str, float | str | None]:
        import jiwer

        reference, hypothesis = self._normalise(text), self._normalise(transcript)
        letters, others = (text if self._spaced else text.replace(" ", "") for text in (reference, hypothesis))
        columns: dict[str, float | str | None] = {
            "transcript": transcript,
            "word_errors": _errors(jiwer.process_words(reference, hypothesis)),
            "words": len(reference.split()),
            "char_errors": _errors(jiwer.process_characters(letters, others)),
            "chars": len(letters),
        }
        return {f"{name}{self._suffix}": value for name, value in columns.items()}


def _errors(alignment: Any) -> int:
    return alignment.substitutions + alignment.deletions + alignment.insertions
