"""Recorded speech as labels for drafts, where it is there as codes: ids of prompt, speech and end, without a model.

What ``pcg.training.samples`` writes of the target's own speech, of other people's: the target's distributions on it are
as good a goal, on speech that it would not have said. No codec, no decoding and no device are needed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from pcg.constraints import FROM_0, FROM_1
from pcg.decoding.voice import spoken_tokens, voice_tokens
from pcg.interfaces import Dataset
from pcg.training.shards import write_shard
from pcg.types import Utterance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """Write ``out/{heldout,train}-NNNN.parquet`` of ``ids``, as ``Samples`` does, for ``trainer.labels=self``.

    Texts that the text side refuses, and sequences longer than ``max_length``, are left out; how many is told.

    Args:
        dataset: texts with codes (``pcg.data.tokens``).
        text: the target's text side.
        out: where the shards go; a folder that has some is refused, since they may be of other texts.
        heldout: the first so many sequences are the held-out split.
        shard_size: sequences a shard.
        max_length: ids of a sequence, prompt and end included.
    """

    dataset: Dataset
    text: Any
    out: str
    heldout: Annotated[int, FROM_0]
    shard_size: Annotated[int, FROM_1]
    max_length: Annotated[int, FROM_1]

    def run(self) -> None:
        """Raises ValueError where shards are there, a code is beyond the vocabulary, or nothing is left to train on."""
        folder = Path(self.out)
        if any(folder.glob("*.parquet")):
            raise ValueError(f"{folder} holds shards already: take another trainer.out, or remove them")
        folder.mkdir(parents=True, exist_ok=True)
        sequences, written = self._sequences(), 0
        for split, count in (("heldout", self.heldout), ("train", None)):
            rows = itertools.islice(sequences, count)
            for index in itertools.count():
                shard = list(itertools.islice(rows, self.shard_size))
                if not shard:
                    break
                write_shard(folder / f"{split}-{index:04d}.parquet", [{"ids": ids} for ids in shard])
                written += len(shard)
        if written <= self.heldout:
            raise ValueError(f"{written} usable sequences, {self.heldout} of which are held out: too few to train on")
        log.info("recorded: %d of %d utterances", written, len(self.dataset))

    def _sequences(self) -> Iterator[list[int]]:
        for utterance in self.dataset:
            ids = self._ids(utterance)
            if ids is not None and len(ids) <= self.max_length:
                yield ids

    def _ids(self, utterance: Utterance) -> list[int] | None:
        """The ids of prompt, speech and end; None for a text that the text side refuses."""
        known = len(self.text.speech_ids) - 1
        speech = spoken_tokens(utterance, None, known)
        voice = voice_tokens(utterance, None, known)
        try:
            prompt = self.text.prompt(utterance, voice)
        except ValueError as error:
            log.info("left out: %s", error)
            return None
        return torch.cat([prompt, self.text.speech_ids[speech], self.text.speech_ids[-1:]]).tolist()
