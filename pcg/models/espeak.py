"""Phonemes by eSpeak NG, which NeuTTS was trained on. Needs `pip install pcg[espeak]`, which includes its library."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


@cache
def phonemizer_of(language: str) -> Callable[[str], str]:
    """A function from text to phonemes, with stress, punctuation and a space between words.

    Raises:
        ImportError: the extra is not installed.
        ValueError: eSpeak NG does not know the language.
    """
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise ImportError(f"text.phonemes={language}: needs eSpeak NG: pip install pcg[espeak] ({error})") from error

    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())  # without it eSpeak NG ends the process
    try:
        backend = EspeakBackend(language, preserve_punctuation=True, with_stress=True)
    except RuntimeError as error:
        raise ValueError(f"text.phonemes={language}: {error}") from error
    return lambda text: " ".join(" ".join(backend.phonemize([text])).split())
