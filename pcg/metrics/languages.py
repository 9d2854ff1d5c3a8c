"""Normalisation of texts in languages other than English (English: ``pcg.metrics.asr``)."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable

from pcg.metrics.pretrained import MissingPart
from pcg.text import plain

UNSPACED = ("ja", "lo", "my", "th", "yue", "zh")  # a character counts as a word, as in Whisper's appendix C


def other_than_english(language: str) -> Callable[[str], str]:
    """Whisper's basic normaliser (Radford et al. 2022, appendix C): lower case, no punctuation, numbers as written.

    Languages without spaces are split into characters. Chinese is simplified first, since recognisers write either
    script; Seed-TTS-eval does so too, with another table of the same kind.

    Raises:
        MissingPart: the language is Chinese and opencc is not installed.
    """
    from whisper_normalizer.basic import BasicTextNormalizer

    basic = BasicTextNormalizer(split_letters=language in UNSPACED, preserve_marks=True)
    simplify = _simplifier() if language == "zh" else str

    def normalise(text: str) -> str:
        # without brackets, as the normaliser deletes what is in them as a subtitler's note
        return " ".join(basic(re.sub(r"[()<>[\]{}（）【】…]", " ", simplify(plain(text)))).split())

    return normalise


@functools.cache
def _simplifier() -> Callable[[str], str]:
    if importlib.util.find_spec("opencc") is None:
        raise MissingPart("WER of Chinese needs the package 'opencc': `pip install 'pcg[chinese]'`")
    from opencc import OpenCC

    return OpenCC("t2s").convert
