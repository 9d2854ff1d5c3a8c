"""Training sequences of language models, in LLaSA's format, and batches of them.

A sequence has one utterance or two of the same speaker, concatenated:
``text_start phonemes text_end speech_start audio speech_end``. From two utterances the model learns to continue in the
voice of the first, which is what a voice prompt needs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset

from pcg.data.stored import ParquetRows
from pcg.training.shards import shards

MARKERS = {"text_start": 1, "text_end": 2, "speech_start": 3, "speech_end": 4}
AUDIO_OFFSET = 64  # ids below it are markers and phonemes; id 0 pads


@dataclass(frozen=True)
class Spoken:
    """One utterance of the token corpus."""

    phonemes: str
    tokens: list[int]


def read_tokens(folder: str, split: str) -> dict[str, list[Spoken]]:
    """Utterances by speaker; raises as ``ParquetRows`` for shards that are empty or cannot be read."""
    by_speaker: dict[str, list[Spoken]] = {}
    for shard in shards(folder, split):
        for row in ParquetRows([shard], ("speaker", "phonemes", "tokens")):
            by_speaker.setdefault(row["speaker"], []).append(Spoken(row["phonemes"], row["tokens"]))
    return by_speaker


@dataclass(frozen=True)
class Sequence:
    """Token ids, and for each speech position the place in the text that it speaks (-1 where it is not speech)."""

    ids: list[int]
    centre: list[float]


def join(utterances: list[Spoken], phoneme_ids: dict[str, int]) -> Sequence:
    """One training sequence; ``centre`` moves evenly along the phonemes of each utterance."""
    text = [phoneme_ids[c] for c in " ".join(u.phonemes for u in utterances)]
    ids = [MARKERS["text_start"], *text, MARKERS["text_end"], MARKERS["speech_start"]]
    centre, start = [-1.0] * len(ids), 1
    for u in utterances:
        ids += [AUDIO_OFFSET + t for t in u.tokens]
        centre += [start + len(u.phonemes) * (i + 0.5) / len(u.tokens) for i in range(len(u.tokens))]
        start += len(u.phonemes) + 1
    return Sequence([*ids, MARKERS["speech_end"]], [*centre, -1.0])


Epoch = Callable[[random.Random], list[Sequence]]


def corpus(speakers: dict[str, list[Spoken]], phonemes: dict[str, int], single: float) -> Epoch:
    """Each utterance once an epoch, alone (a share ``single`` of the sequences) or with another of its speaker."""

    def epoch(rng: random.Random) -> list[Sequence]:
        out = []
        for spoken in speakers.values():
            order = rng.sample(spoken, len(spoken))
            while order:
                count = 1 if rng.random() < single else 2
                out.append(join([order.pop() for _ in range(min(count, len(order)))], phonemes))
        rng.shuffle(out)
        return out

    return epoch


def samples(folder: str, split: str) -> Epoch:
    """The target's own samples (``pcg.training.samples``); raises as ``ParquetRows`` for shards without any."""
    sequences = [Sequence(row["ids"], []) for shard in shards(folder, split) for row in ParquetRows([shard], ("ids",))]
    return lambda rng: rng.sample(sequences, len(sequences))


class Batches(IterableDataset):
    """Endless batches of sequences of similar length; of N devices that train together, each reads every Nth batch.

    Args:
        epoch: returns the sequences of one epoch in random order.
        tokens: largest number of padded tokens in a batch.
        pad: makes tensors of a batch.
    """

    def __init__(self, epoch: Epoch, tokens: int, seed: int, pad: Callable[[list[Sequence]], Any]) -> None:
        self.epoch, self.tokens, self.seed, self.pad = epoch, tokens, seed, pad

    def __iter__(self) -> Iterator[Any]:
        first, step = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        yield from map(self.pad, itertools.islice(self._endless(), first, None, step))

    def _endless(self) -> Iterator[list[Sequence]]:
        rng = random.Random(self.seed)
        while True:
            sequences = self.epoch(rng)
            for start in range(0, len(sequences), 1024):
                pool = sorted(sequences[start : start + 1024], key=lambda sequence: len(sequence.ids))
                batches = list(self._cut(pool))
                rng.shuffle(batches)
                yield from batches

    def _cut(self, pool: list[Sequence]) -> Iterator[list[Sequence]]:
        batch: list[Sequence] = []
        for sequence in pool:  # sorted: the newest is the longest
            if batch and len(sequence.ids) * (len(batch) + 1) > self.tokens:
                yield batch
                batch = []
            batch.append(sequence)
        yield batch


def pad_ids(batch: list[Sequence]) -> Int[Tensor, "batch length"]:
    """The ids of a batch, padded on the right with 0."""
    return pad_sequence([torch.tensor(sequence.ids) for sequence in batch], batch_first=True)


def pad(batch: list[Sequence]) -> tuple[Int[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    """The ids of a batch, padded with 0, and their centres, padded with -1."""
    centres = [torch.tensor(sequence.centre) for sequence in batch]
    return pad_ids(batch), pad_sequence(centres, batch_first=True, padding_value=-1.0)
