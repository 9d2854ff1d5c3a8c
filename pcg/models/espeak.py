"""Phonemes by eSpeak NG, as NeuTTS was trained on: an extra (`pip install pcg[espeak]`), which brings its library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


@cache
def phonemizer_of(language: str) -> Callable[[str], str]:
    """Text to phonemes with stress and punctuation, words a space apart.

    Raises:
        ImportError: the extra is not installed.
        ValueError: eSpeak NG does not know the language.
    """
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise ImportError(f"text.phonemes={language}: needs eSpeak NG, `pip install pcg[espeak]` ({error})") from error

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())  # else eSpeak NG ends the process
    try:
        backend = EspeakBackend(language, preserve_punctuation=True, with_stress=True)
    except RuntimeError as error:
        raise ValueError(f"text.phonemes={language}: {error}") from error
    return lambda text: " ".join(" ".join(backend.phonemize([text])).split())
