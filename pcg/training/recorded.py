"""Recorded speech that is stored as codes, as training sequences for drafts.

The shards are like those of ``pcg.training.samples``, but with recordings instead of the target's own samples: a draft
then learns the target's distributions on speech that the target might not have generated. This needs no codec, no
decoding and no device.
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
from pcg.training.shards import shard_path, write_shard
from pcg.types import Utterance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recorded:
    """Writes ``out/{heldout,train}-NNNN.parquet`` with ``ids``, as ``Samples`` does, for ``trainer.labels=self``.

    Texts that the text side refuses and sequences longer than ``max_length`` are left out; the log says how many.

    Args:
        dataset: texts with codes (``pcg.data.tokens``).
        text: the target's text side.
        out: folder of the shards; it must have none, since these could be of other texts.
        heldout: number of sequences in the held-out split, which are the first ones.
        shard_size: sequences in a shard.
        max_length: largest number of ids in a sequence, prompt and end included.
    """

    dataset: Dataset
    text: Any
    out: str
    heldout: Annotated[int, FROM_0]
    shard_size: Annotated[int, FROM_1]
    max_length: Annotated[int, FROM_1]

    def run(self) -> None:
        """Raises ValueError where shards exist, a code is beyond the vocabulary, or nothing is left to train on."""
        folder = Path(self.out)
        if any(folder.glob("*.parquet")):
            raise ValueError(f"{folder} already has shards: choose another trainer.out, or remove them")
        folder.mkdir(parents=True, exist_ok=True)
        sequences, written = self._sequences(), 0
        for split, count in (("heldout", self.heldout), ("train", None)):
            rows = itertools.islice(sequences, count)
            for index in itertools.count():
                shard = list(itertools.islice(rows, self.shard_size))
                if not shard:
                    break
                write_shard(shard_path(folder, split, index), [{"ids": ids} for ids in shard])
                written += len(shard)
        if written <= self.heldout:
            raise ValueError(
                f"the dataset has {written} usable sequences, of which {self.heldout} are held out: none is left to "
                "train on; lower trainer.heldout, or use a larger dataset"
            )
        log.info("recorded: %d of %d utterances are used", written, len(self.dataset))

    def _sequences(self) -> Iterator[list[int]]:
        for utterance in self.dataset:
            ids = self._ids(utterance)
            if ids is not None and len(ids) <= self.max_length:
                yield ids

    def _ids(self, utterance: Utterance) -> list[int] | None:
        """The ids of prompt, speech and end; None for a text that the text side refuses."""
        audio_tokens = len(self.text.speech_ids) - 1
        speech = spoken_tokens(utterance, None, audio_tokens)
        voice = voice_tokens(utterance, None, audio_tokens)
        try:
            prompt = self.text.prompt(utterance, voice)
        except ValueError as error:
            log.info("left out: %s", error)
            return None
        return torch.cat([prompt, self.text.speech_ids[speech], self.text.speech_ids[-1:]]).tolist()
