"""Samples of the target as training sequences for drafts, since in use a draft continues the target's own tokens.

They are decoded once, in batches, at the temperature of use, and only ids are stored: running the target over a batch
again takes a third of a training step, while its hidden states would take 2 KB for each token of the bundled pair, and
24 KB for an 8B model.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.constraints import ABOVE_0, FROM_0, FROM_1
from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.sampling import Randomness, Sampling, as_keys
from pcg.training.shards import shard_path, write_shard
from pcg.types import Utterance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Writes ``out/{train,heldout}-NNNN.parquet`` with ``ids``: prompt, speech, end-of-speech. Existing shards stay.

    Utterances that reach ``max_tokens`` without end-of-speech are left out.

    Args:
        prompts: one of ``pcg.training.prompts``.
        out: folder of the shards.
        target: the target, as in a run.
        utterances, heldout: size of each split.
        shard_size: utterances in a shard.
        batch_size: rows decoded together.
        max_tokens: of one utterance.
        temperature: at which the draft will be used.
        seed: of prompts and draws.
    """

    prompts: Any
    out: str
    target: Any
    utterances: Annotated[int, FROM_1]
    heldout: Annotated[int, FROM_0]
    shard_size: Annotated[int, FROM_1]
    batch_size: Annotated[int, FROM_1]
    max_tokens: Annotated[int, FROM_1]
    temperature: Annotated[float, ABOVE_0]
    seed: int

    def run(self) -> None:
        Path(self.out).mkdir(parents=True, exist_ok=True)
        for split, count in (("heldout", self.heldout), ("train", self.utterances)):
            prompts = self.prompts.of(self.target, split, self.seed)
            for index in range(-(-count // self.shard_size)):
                size = min(self.shard_size, count - index * self.shard_size)
                chosen = [next(prompts) for _ in range(size)]  # also for an existing shard: later ones depend on it
                path = shard_path(self.out, split, index)
                if not path.exists():
                    self._write(path, chosen)

    def _write(self, path: Path, prompts: list[tuple[str, list[int]]]) -> None:
        rows: list[dict[str, list[int]]] = []
        for start in range(0, len(prompts), self.batch_size):
            rows += [{"ids": ids} for ids in self._say(prompts[start : start + self.batch_size])]
        if not rows:
            raise ValueError(
                f"none of the {len(prompts)} utterances of {path} ended within max_tokens={self.max_tokens}, and only "
                "complete ones are used: raise trainer.max_tokens"
            )
        write_shard(path, rows)
        log.info("samples: %s has %d of %d utterances, the others did not end", path.name, len(rows), len(prompts))

    def _say(self, prompts: list[tuple[str, list[int]]]) -> list[list[int]]:
        ids = {name: torch.tensor(prompt, device=self.target.device) for name, prompt in prompts}
        end = int(self.target.token_ids(torch.tensor(self.target.end, device=self.target.device)))
        generations = decode(
            _with_prompts(self.target, ids),
            Batch(
                [Prompt(Utterance(name, name)) for name in ids],
                Sampling(temperature=self.temperature),
                self.max_tokens,
                Randomness(self.seed, as_keys(list(ids), self.target.device)),
            ),
        )
        return [
            [*prompt.tolist(), *self.target.token_ids(generation.tokens.to(self.target.device)).tolist(), end]
            for prompt, generation in zip(ids.values(), generations, strict=True)
            if generation.finished
        ]


def _with_prompts(target: Any, ids: dict[str, Int[Tensor, "_"]]) -> Any:
    """A copy of the target whose prompts are these ids, by the utterance's id."""
    copied = copy.copy(target)
    copied.prompt = lambda utterance, _speech: ids[utterance.id]
    return copied
