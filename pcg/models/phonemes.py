"""The text side of the bundled pair: phonemes in LLaSA's prompt format."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.models.checkpoint import read_json, resolve_folder
from pcg.models.text_side import followed_by_voice
from pcg.text import plain
from pcg.types import Utterance

TOKENS = "tokens.json"


_LONG_NUMBER = re.compile(r"\d(?:,?\d){35,}")  # hibari has words up to 10^36
_LONG_WORD = re.compile(r"[^\W\d_]{25,}")  # and reads 24 letters of a word that it does not know
_LETTER_NAME = re.compile(r"(?:LATIN|GREEK) (?:SMALL|CAPITAL) LETTER (?:FINAL )?([A-Z]+)(?: WITH .*)?$")
_SILENT = frozenset('ˈˌ .,;:!?—…()“”"')
_PAUSES = {";": ",", ":": ",", "—": ",", "(": ",", ")": ",", "…": ".", "“": "", "”": "", '"': ""}


@cache
def _front_end() -> Any:
    from hibari.g2p import G2P  # takes 0.3 s to import

    return G2P()


@lru_cache(maxsize=1024)
def phonemize(text: str) -> str:
    """Misaki-style English phonemes, by the front end of hibari-tts, sentence by sentence.

    Departures, for input that hibari cannot read or would leave out: variants of a sign are unified
    (``pcg.text.plain``), numbers beyond its vocabulary are read digit by digit, very long words in parts, and Latin and
    Greek letters that it does not know by their names.

    Raises:
        ValueError: the text has letters of other scripts; the message names them.
    """
    from hibari import Hibari

    text = _LONG_WORD.sub(_parts, _LONG_NUMBER.sub(_digits, _readable(plain(text))))
    text = text.replace("](", "] (")  # its markup for phonemes
    return " ".join(filter(None, (_front_end()(sentence) for sentence in Hibari.split_sentences(text))))


def _digits(number: re.Match[str]) -> str:
    return " ".join(re.findall(r"\d", number[0]))


def _parts(word: re.Match[str]) -> str:
    whole = word[0].lower() in _front_end().lexicon.golds
    return word[0] if whole else " ".join(re.findall(".{1,20}", word[0]))


def _readable(text: str) -> str:
    letters: dict[str, str | int | None] = {
        sign: _letter(sign) for sign in text if sign.isalpha() and not sign.isascii()
    }
    unread = [sign for sign, reading in letters.items() if reading is None]
    if unread:
        raise ValueError(f"cannot pronounce {_named(unread)} in {text!r}")
    return text.translate(str.maketrans(letters))


def _letter(sign: str) -> str | None:
    """How hibari can read a letter beyond ASCII: as itself, as its small form, or by its name; None if it cannot."""
    signs = _front_end().oov.cin
    if sign in signs or sign.lower() in signs:
        return sign if sign in signs else sign.lower()
    name = _LETTER_NAME.match(unicodedata.name(sign, ""))
    return name and (name[1].lower() if len(name[1]) == 1 else f" {name[1].lower()} ")


def _named(signs: Iterable[str]) -> str:
    return ", ".join(f"{sign!r} ({unicodedata.name(sign, 'unnamed')})" for sign in signs)


class Phonemes:
    """Ids of markers, phonemes and audio tokens, read from ``tokens.json`` of a model folder.

    ``{"markers": {"text_start", "text_end", "speech_start", "speech_end": id}, "phonemes": {character: id},
    "audio_offset": id of audio token 0, "audio_tokens": how many}``.

    The prompt has LLaSA's format: ``text_start``, phonemes of the voice prompt's text and of the text to say,
    ``text_end``, ``speech_start``, the voice prompt's audio tokens. Dashes, brackets, colons and similar signs become
    pauses if the model has no phoneme for them. ``prompt`` raises ValueError for any other unknown phoneme, and for a
    text that has nothing to say.
    """

    def __init__(self, path: str) -> None:
        self._file = resolve_folder(path) / TOKENS
        tokens = read_json(self._file)
        missing = [key for key in ("markers", "phonemes", "audio_offset", "audio_tokens") if key not in tokens]
        if missing:
            raise ValueError(f"{self._file} lacks {', '.join(missing)}")
        self._markers: dict[str, int] = tokens["markers"]
        self._phonemes: dict[str, int] = tokens["phonemes"]
        audio = torch.arange(tokens["audio_tokens"]) + tokens["audio_offset"]
        self.speech_ids = torch.cat([audio, torch.tensor([self._markers["speech_end"]])])

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        # each text by itself, as in the training corpus, so that joining them does not change how a text is read
        spoken = phonemize(utterance.text)
        if _SILENT.issuperset(spoken):
            raise ValueError(f"utterance {utterance.id}: nothing to say in {utterance.text!r}")
        text = f"{phonemize(utterance.prompt_text)} {spoken}".lstrip()
        marker = self._markers
        ids = [marker["text_start"], *self._ids(text, utterance.id), marker["text_end"], marker["speech_start"]]
        return followed_by_voice(ids, self.speech_ids, prompt_tokens)

    def _ids(self, phonemes: str, utterance_id: str) -> list[int]:
        phonemes = self._with_pauses(phonemes)
        unknown = sorted({c for c in phonemes if c not in self._phonemes and not c.isspace()})
        if unknown:
            raise ValueError(f"utterance {utterance_id}: {self._file} lists no phonemes {_named(unknown)}")
        return [self._phonemes[c] for c in phonemes if c in self._phonemes]

    def _with_pauses(self, phonemes: str) -> str:
        """Replaces signs that the model has no phoneme for by commas and full stops, never two pauses in a row."""
        pauses = {sign: pause for sign, pause in _PAUSES.items() if sign not in self._phonemes}
        if not pauses.keys() & set(phonemes):
            return phonemes
        paused = re.sub(r"\s*,[\s,]*", ", ", "".join(pauses.get(sign, sign) for sign in phonemes))
        paused = re.sub(r"([.!?])[.,\s]*(?=[.,\s]|$)", r"\1", re.sub(r",?\s*(?=[.!?])", "", paused))
        return re.sub(r"\s+", " ", re.sub(r",\s*$", ".", paused.lstrip(" ,.")))
