"""Trains the bundled target, or another language model of its kind, on the token corpus, for its speech tokens only."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L

from pcg.constraints import FROM_1, SHARE
from pcg.training.fit import Stage, fit, resumed_at
from pcg.training.sequences import AUDIO_OFFSET, MARKERS, Batches, corpus, pad, read_tokens
from pcg.training.speech import SpeechLM

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LMTrainer(Stage):
    """A language-model stage: token shards -> a Llama folder.

    Args:
        tokens: folder of the token corpus.
        start: model folder (``bundled:NAME`` for one inside the package) to train further; None for random weights.
        llama: arguments of transformers' LlamaConfig, less the vocabulary.
        levels: FSQ levels of the codec.
        guide: ``guide_layer``, ``guide`` and ``guide_width`` of SpeechLM.
        batch_tokens: largest number of padded tokens for a step and device.
        single: share of sequences with one utterance; the others have two of one speaker.
    """

    tokens: str
    start: str | None
    llama: dict[str, Any]
    levels: list[int]
    guide: dict[str, Any]
    batch_tokens: Annotated[int, FROM_1]
    single: Annotated[float, SHARE]

    def run(self) -> None:
        L.seed_everything(self.seed, verbose=False)
        speakers = read_tokens(self.tokens, "train")
        letters = sorted({c for spoken in speakers.values() for u in spoken for c in u.phonemes})
        if len(letters) + len(MARKERS) >= AUDIO_OFFSET:
            raise ValueError(f"{len(letters)} phoneme characters do not fit below id {AUDIO_OFFSET}")
        phonemes = {c: 1 + len(MARKERS) + i for i, c in enumerate(letters)}
        module = SpeechLM(self.llama, self.levels, **self.guide, stage=self)
        if self.start is not None:
            module.start_from(self.start, phonemes)
        log.info("%s: %.1f M parameters", Path(self.out).name, sum(p.numel() for p in module.llama.parameters()) / 1e6)
        epoch = corpus(speakers, phonemes, self.single)
        batches = Batches(epoch, self.batch_tokens, self.seed + resumed_at(self.out), pad)
        fit(self, module, batches, lambda: module.export(Path(self.out), phonemes))
