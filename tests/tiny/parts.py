"""Tiny parts that a config can name: a bigram language model, a codec, texts, a metric. Not fakes of behaviour:
they satisfy the protocols, so the real loops and rules run on them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcg.models.tree import Tree
from pcg.types import Audio, Figure, Utterance

AUDIO_TOKENS = 12
calls: dict[str, int] = {}


def count(name: str) -> None:
    calls[name] = calls.get(name, 0) + 1


@dataclasses.dataclass
class BigramCache:
    lengths: Tensor

    def move(self, source: Tensor, place: Tensor) -> None:
        """It holds no tokens: the last one is fed again."""

    def keep(self, rows: Tensor) -> None:
        self.lengths = self.lengths[rows]


class Bigram:
    """The next token depends on the last one; ``noise`` sets how far it is from other models of the same seed."""

    vocab_size = AUDIO_TOKENS + 1
    end = AUDIO_TOKENS
    reads = ()

    def __init__(self, device: torch.device, seed: int = 0, noise: float = 0.0) -> None:
        count("models")
        self.device = device
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(self.vocab_size, self.vocab_size, generator=generator)
        self._table = table + noise * torch.randn(table.shape, generator=generator)
        self._table[:, self.end] -= 1.0
        self._embeddings = torch.randn(self.vocab_size, 4, generator=generator)

    def prompt(self, utterance: Utterance, prompt_tokens: Tensor | None) -> Tensor:
        if "poison" in utterance.text:
            raise RuntimeError("cannot say poison")
        text = torch.tensor([len(word) % AUDIO_TOKENS for word in utterance.text.split()])
        return torch.cat([text, torch.zeros(2, dtype=torch.int64) if prompt_tokens is None else prompt_tokens])

    def prefill(
        self, prompts: Sequence[Tensor], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> BigramCache:
        return BigramCache(torch.tensor([len(prompt) - 1 for prompt in prompts]))

    def step(self, tokens: Tensor, cache: BigramCache) -> Tensor:
        cache.lengths = cache.lengths + tokens.shape[1]
        return self._table[tokens]

    def step_tree(self, tokens: Tensor, cache: BigramCache, tree: Tree) -> Tensor:
        return self.step(tokens, cache)

    def token_ids(self, speech: Tensor) -> Tensor:
        return speech

    def embeddings(self, source: str) -> Tensor:
        return self._embeddings


class Tones:
    """A codec of one level a token."""

    sample_rate, codebook_size, frame = 16_000, AUDIO_TOKENS, 1

    def __init__(self, device: torch.device, hop: int = 8) -> None:
        count("codecs")
        self.hop = hop

    def encode(self, audio: Sequence[Audio]) -> list[Tensor]:
        levels = [clip.samples[:: self.hop] for clip in audio]
        return [torch.from_numpy(np.round(level * AUDIO_TOKENS)).long() for level in levels]

    def decode(self, tokens: Sequence[Tensor]) -> list[Audio]:
        return [Audio(np.repeat(row.numpy() / AUDIO_TOKENS, self.hop).astype(np.float32), 16_000) for row in tokens]

    def codebook(self) -> Tensor:
        return torch.eye(AUDIO_TOKENS)


class Sentences:
    def __init__(
        self, limit: int | None = None, poison: Sequence[int] = (), speakers: Sequence[str] = ("anna",)
    ) -> None:
        self._limit, self._poison, self._speakers = limit or 6, set(poison), speakers

    def __len__(self) -> int:
        return self._limit

    def __iter__(self) -> Iterator[Utterance]:
        for index in range(self._limit):
            text = f"sentence number {'poison' if index in self._poison else index}"
            speaker = self._speakers[index % len(self._speakers)]
            yield Utterance(f"u/{index}", text, speaker, "hello", prompt, functools.partial(recording, index))


class Coded:
    """Texts, every other one in a voice that is coded already, and no audio."""

    def __init__(self, limit: int = 4) -> None:
        self._limit = limit

    def __len__(self) -> int:
        return self._limit

    def __iter__(self) -> Iterator[Utterance]:
        for index in range(self._limit):
            codes = (lambda: np.array([3, 1, 2])) if index % 2 else None
            yield Utterance(f"c/{index}", f"sentence number {index}", load_prompt_codes=codes)


def prompt() -> Audio:
    return _tones([3, 1, 2])


def recording(index: int) -> Audio:
    """Of ``5 + index`` tokens."""
    return _tones([(3 * index + 5 * place) % AUDIO_TOKENS for place in range(5 + index)])


def _tones(tokens: Sequence[int]) -> Audio:
    return Audio(np.repeat(np.array(tokens) / AUDIO_TOKENS, 8).astype(np.float32), 16_000)


class Loudness:
    """Stands in for a metric with a corpus ratio (wer) and a mean (mos)."""

    figures: Mapping[str, Figure] = {
        "wer": Figure("WER", "%", ".1f", "lower", ("errors", "words")),
        "mos": Figure("MOS", better="higher", ratio=("mos", None)),
    }

    def __init__(self, offset: float = 0.0) -> None:
        self._offset = offset

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
        count("scored")
        calls["clips"] = calls.get("clips", 0) + len(audio)
        return [
            {"errors": len(clip.samples) % 3, "words": len(said.text.split()), "mos": self._offset + clip.seconds}
            for clip, said in zip(audio, utterances, strict=True)
        ]


class Dictation:
    """Stands in for speech recognition: mishears the last word of a clip of an odd number of tokens."""

    figures: Mapping[str, Figure] = {"wer": Figure("WER", "%", ".1f", "lower", ("word_errors", "words"))}

    def __init__(self, hop: int) -> None:
        self._hop = hop

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
        return [self._heard(clip, said.text.split()) for clip, said in zip(audio, utterances, strict=True)]

    def _heard(self, clip: Audio, words: list[str]) -> dict[str, Any]:
        wrong = len(clip.samples) // self._hop % 2
        heard = [*words[:-1], "mumble"] if wrong else words
        return {"word_errors": wrong, "words": len(words), "transcript": " ".join(heard)}


class Roughness:
    """Stands in for somebody's own metric: in decibels, lower is better, and nothing in its name says so."""

    figures: Mapping[str, Figure] = {"roughness": Figure("roughness", "dB", ".2f", "lower", ("roughness", None))}

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
        return [{"roughness": float(len(clip.samples) % 7)} for clip, _ in zip(audio, utterances, strict=True)]


class Recorder:
    """A logger that keeps the results that it was given, or fails."""

    live = False
    told: list[Any] = []  # noqa: RUF012  (read by the tests)

    def __init__(self, fails: bool = False) -> None:
        self._fails = fails

    def begin(self, about: Any, folder: Any, live: bool) -> Recorder:
        if self._fails:
            raise ConnectionError("no network")
        self._folder = folder
        return self

    def add(self, step: int, utterance: Any, so_far: Any) -> None:
        """Not kept."""

    def finish(self, result: Any, utterances: Any, objective: Any = None) -> None:
        Recorder.told.append((result, utterances, self._folder))
