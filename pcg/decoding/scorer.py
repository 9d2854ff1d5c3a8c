"""The target's side of a round: it scores a block in one pass, and drops the tokens that were not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Rows
from pcg.history import History
from pcg.interfaces import TokenLM

Step = Callable[[Int[Tensor, "batch new"], Any], Float[Tensor, "batch new vocab"]]


class Scorer:
    """A target with its cache, which holds every token of a row but the last; the next pass begins with that one.

    Args:
        room: positions that a pass may write after the last token.
        reads: hidden states that the cache keeps, for the draft and for a rule that reads them.
    """

    def __init__(self, target: TokenLM, rows: Rows, room: int, reads: tuple[int, ...], clock: Clock) -> None:
        ids = [target.prompt(prompt.utterance, prompt.speech) for prompt in rows.prompts]
        self._target, self._rows, self._clock = target, rows, clock
        with clock.during("prefill"):
            self.cache = target.prefill(ids, max(map(len, ids)) + rows.max_tokens + room, reads)
            self._last = torch.stack([prompt_ids[-1:] for prompt_ids in ids])
            self.total = self.cache.lengths + 1  # tokens of each row, prompt included

    def score(
        self,
        tokens: Int[Tensor, "batch drafted"],
        history: History | None,
        step: Step | None = None,
    ) -> Float[Tensor, "batch drafted+1 vocab"]:
        """The target's distributions after the last token and after each of ``tokens``.

        Args:
            history: the tokens before each of these positions, where sampling depends on them.
            step: makes the pass where the tokens form a tree; None for the target's own ``step``.
        """
        block = torch.cat([self._last, self._target.token_ids(tokens)], 1)
        with self._clock.during("target"):
            logits = (step or self._target.step)(block, self.cache)
        return self._rows.sampling.probabilities(logits, history)

    def accept(self, token: Int[Tensor, "batch"], on_host: Int[Tensor, "batch"]) -> None:
        """Drops the draft tokens that were not kept.

        Args:
            token: the recovered or bonus token.
            on_host: how many draft tokens were kept, on the CPU.
        """
        self.total = self.total + on_host + 1
        self.cache.lengths = self.total - 1
        self._last = self._target.token_ids(token).unsqueeze(1)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.cache.keep(rows)
        self.total, self._last = self.total[rows], self._last[rows.to(self._last.device)]
