"""Trains the bundled target, and any language model of its kind, on the token corpus. Only the speech is learnt."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import lightning as L
from torch.utils.data import DataLoader

from pcg.constraints import ABOVE_0, FROM_1, SHARE
from pcg.tracking.training import Mode
from pcg.training.fit import fit, resumed_at
from pcg.training.sequences import AUDIO_OFFSET, MARKERS, Batches, corpus, pad, read_tokens
from pcg.training.speech import SpeechLM

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LMTrainer:
    """A language-model stage: token shards -> a Llama folder.

    Args:
        tokens: folder of the token corpus.
        out: model folder to write; its checkpoint lies beside it and is resumed from.
        start: model folder (``bundled:NAME`` for one inside the package) to train further; None starts anew.
        llama: arguments of transformers' LlamaConfig, less the vocabulary.
        levels: FSQ levels of the codec.
        guide: ``guide_layer``, ``guide`` and ``guide_width`` of SpeechLM.
        batch_tokens: most padded tokens a step and device.
        single: share of sequences of one utterance; the others are two of one speaker.
        wandb: figures while training to W&B: ``disabled``, ``offline`` or ``online``.
        devices: how many train together.
    """

    tokens: str
    out: str
    start: str | None
    llama: dict[str, Any]
    levels: list[int]
    guide: dict[str, Any]
    steps: Annotated[int, FROM_1]
    batch_tokens: Annotated[int, FROM_1]
    single: Annotated[float, SHARE]
    learning_rate: Annotated[float, ABOVE_0]
    seed: int
    accelerator: str
    precision: str
    checkpoint_every: Annotated[int, FROM_1]
    wandb: Mode = "disabled"
    devices: Annotated[int, FROM_1] = 1

    def run(self) -> None:
        L.seed_everything(self.seed, verbose=False)
        speakers = read_tokens(self.tokens, "train")
        letters = sorted({c for spoken in speakers.values() for u in spoken for c in u.phonemes})
        if len(letters) + len(MARKERS) >= AUDIO_OFFSET:
            raise ValueError(f"{len(letters)} phoneme characters do not fit under id {AUDIO_OFFSET}")
        phonemes = {c: 1 + len(MARKERS) + i for i, c in enumerate(letters)}
        module = SpeechLM(self.llama, self.levels, steps=self.steps, learning_rate=self.learning_rate, **self.guide)
        if self.start is not None:
            module.start_from(self.start, phonemes)
        log.info("%s: %.1f M parameters", Path(self.out).name, sum(p.numel() for p in module.llama.parameters()) / 1e6)
        epoch = corpus(speakers, phonemes, self.single)
        data = Batches(epoch, self.batch_tokens, self.seed + resumed_at(self.out), pad)
        fit(
            self,
            module,
            DataLoader(data, batch_size=None),
            2 * self.steps,
            lambda: module.export(Path(self.out), phonemes),
        )
