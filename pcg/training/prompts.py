"""Prompts for ``pcg.training.samples``, as token ids of the target."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pcg.constraints import FROM_1
from pcg.decoding.voice import voice_tokens
from pcg.interfaces import Codec, Dataset, TokenLM
from pcg.models.checkpoint import read_json
from pcg.training.sequences import join, read_tokens

Prompts = Iterator[tuple[str, list[int]]]  # a name, which seeds the draws, and the ids before the speech


@dataclass(frozen=True)
class CorpusPairs:
    """Pairs of utterances of one speaker of the bundled token corpus; the first one is the voice prompt.

    Args:
        tokens: folder of the corpus.
    """

    tokens: str

    def of(self, target: Any, split: str, seed: int) -> Prompts:
        """Yields prompts endlessly."""
        phonemes = read_json(Path(target.folder) / "tokens.json")["phonemes"]
        speakers = [spoken for spoken in read_tokens(self.tokens, split).values() if len(spoken) > 1]
        rng = random.Random(f"{seed} {split}")
        for number in itertools.count():
            pair = rng.sample(rng.choices(speakers, [len(spoken) for spoken in speakers])[0], 2)
            yield f"{split}-{number}", join(pair, phonemes).ids[: -1 - len(pair[1].tokens)]


@dataclass(frozen=True)
class DatasetPrompts:
    """The utterances of a dataset with their voice prompts, as in decoding, repeated endlessly.

    Args:
        dataset: any dataset of a run.
        codec: the target's, to encode the voices; None where the dataset stores codes (``dataset=tokens``).
        apart: number of utterances in the held-out split, which are the first ones.
    """

    dataset: Dataset
    codec: Codec | None
    apart: Annotated[int, FROM_1]

    def of(self, target: TokenLM, split: str, seed: int) -> Prompts:
        """Yields prompts endlessly.

        Raises:
            ValueError: all utterances of the dataset are held out.
        """
        if len(self.dataset) <= self.apart:
            raise ValueError(
                f"the dataset has {len(self.dataset)} utterances, of which {self.apart} are held out: none is left; "
                "lower trainer.prompts.apart, or use a larger dataset"
            )
        for turn in itertools.count():
            chosen = (0, self.apart) if split == "heldout" else (self.apart, None)
            for utterance in itertools.islice(self.dataset, *chosen):
                voice = voice_tokens(utterance, self.codec, target.end)
                yield f"{utterance.id} {turn} {seed}", target.prompt(utterance, voice).tolist()
