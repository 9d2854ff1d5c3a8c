"""The prompts that a target is given to sample the speech that drafts are trained on, as its own token ids."""

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

Prompts = Iterator[tuple[str, list[int]]]  # a name, which fixes the draws, and the ids before the first to say


@dataclass(frozen=True)
class CorpusPairs:
    """Pairs of utterances of one speaker of the bundled token corpus, the first of which is the voice.

    Args:
        tokens: folder of the corpus.
    """

    tokens: str

    def of(self, target: Any, split: str, seed: int) -> Prompts:
        """Yield prompts without end."""
        phonemes = read_json(Path(target.folder) / "tokens.json")["phonemes"]
        speakers = [spoken for spoken in read_tokens(self.tokens, split).values() if len(spoken) > 1]
        rng = random.Random(f"{seed} {split}")
        for number in itertools.count():
            pair = rng.sample(rng.choices(speakers, [len(spoken) for spoken in speakers])[0], 2)
            yield f"{split}-{number}", join(pair, phonemes).ids[: -1 - len(pair[1].tokens)]


@dataclass(frozen=True)
class DatasetPrompts:
    """The utterances of a dataset with their voice prompts, as in decoding; again from the start when all were said.

    Args:
        dataset: any dataset of a run.
        codec: what encodes the voices: the target's; None where they are coded already (``dataset=tokens``).
        apart: the first so many utterances are the held-out split.
    """

    dataset: Dataset
    codec: Codec | None
    apart: Annotated[int, FROM_1]

    def of(self, target: TokenLM, split: str, seed: int) -> Prompts:
        """
        Raises:
            ValueError: the dataset holds nothing beyond the held-out utterances.
        """
        if len(self.dataset) <= self.apart:
            raise ValueError(
                f"the dataset has {len(self.dataset)} utterances, {self.apart} of which are held out: too few"
            )
        for turn in itertools.count():
            chosen = (0, self.apart) if split == "heldout" else (self.apart, None)
            for utterance in itertools.islice(self.dataset, *chosen):
                voice = voice_tokens(utterance, self.codec, target.end)
                yield f"{utterance.id} {turn} {seed}", target.prompt(utterance, voice).tolist()
