"""The text side of the bundled pair: phonemes in, LLaSA's prompt form."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.models.checkpoint import read_json, resolve_folder
from pcg.types import Utterance

TOKENS = "tokens.json"


@cache
def _front_end() -> Any:
    from hibari.g2p import G2P  # 0.3 s; needed only where text is spoken

    return G2P()


@lru_cache(maxsize=1024)
def phonemize(text: str) -> str:
    """Misaki-style English phonemes, as hibari-tts speaks them, sentence by sentence."""
    from hibari import Hibari

    return " ".join(filter(None, (_front_end()(sentence) for sentence in Hibari.split_sentences(text))))


class Phonemes:
    """Ids of markers, phonemes and audio tokens, read from ``tokens.json`` of a model folder.

    ``{"markers": {"text_start", "text_end", "speech_start", "speech_end": id}, "phonemes": {character: id},
    "audio_offset": id of audio token 0, "audio_tokens": how many}``.

    The prompt has LLaSA's form: ``text_start``, phonemes of the voice prompt's text and of the text to say,
    ``text_end``, ``speech_start``, the voice prompt's audio tokens. Raises ValueError for a phoneme that the model
    was not trained on.
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
        # each text by itself, as the training corpus was phonemized, so the join never alters a sentence's reading
        text = " ".join(phonemize(part) for part in (utterance.prompt_text, utterance.text) if part.strip())
        marker = self._markers
        ids = [marker["text_start"], *self._ids(text, utterance.id), marker["text_end"], marker["speech_start"]]
        speech = (
            self.speech_ids[prompt_tokens.cpu()] if prompt_tokens is not None else torch.empty(0, dtype=torch.int64)
        )
        return torch.cat([torch.tensor(ids), speech])

    def _ids(self, phonemes: str, utterance_id: str) -> list[int]:
        unknown = sorted({c for c in phonemes if c not in self._phonemes and not c.isspace()})
        if unknown:
            names = ", ".join(f"{c!r} ({unicodedata.name(c, 'unnamed')})" for c in unknown)
            raise ValueError(f"utterance {utterance_id}: phonemes that {self._file} does not list: {names}")
        return [self._phonemes[c] for c in phonemes if c in self._phonemes]
