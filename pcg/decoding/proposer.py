"""The draft's side of a round: it proposes a block, and drops the tokens that were not kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pcg.decoding.clock import Clock
from pcg.decoding.rows import Rows
from pcg.interfaces import Drafted, TokenLM
from pcg.models.chain import chain
from pcg.sampling import Purpose


class Proposer:
    """A draft with its cache.

    What a draft is fed at the start of a round:

    - A model of its own: the last two tokens. After a block that was kept whole it has not read the first of them,
      the last token that it drew; in other rounds it is fed again, so that every round has the same shapes.
    - A draft that reads the target's states: all tokens that the last round added. Its cache entries for them were
      computed from its own states; now the target's states are there.

    Attributes:
        latest: the latest tokens of each row, as many as one round can add, in the draft's own ids.
        unread: how many of them are fed next.
    """

    def __init__(self, draft: TokenLM, rows: Rows, gamma: int, target_cache: Any, clock: Clock) -> None:
        ids = [draft.prompt(prompt.utterance, prompt.speech) for prompt in rows.prompts]
        self._draft, self._rows, self._gamma, self._clock = draft, rows, gamma, clock
        self._whole = getattr(draft, "propose", None)  # a ``ChainLM`` drafts the block by itself
        with clock.during("prefill"):
            self._cache = draft.prefill(ids, max(map(len, ids)) + rows.max_tokens + gamma, target=target_cache)
            self.unread, width = (1, gamma + 1) if draft.reads else (2, 2)
            self._total = self._cache.lengths + 1  # tokens of each row, prompt included
            self._cache.lengths = self._total - self.unread
            # a prompt may be shorter; the padding before it is never fed
            self.latest = torch.stack([F.pad(prompt_ids, (width, 0))[-width:] for prompt_ids in ids])
            self._offsets = torch.arange(1, width + 1, device=draft.device)

    def propose(self) -> Drafted:
        """Drafts gamma tokens: each token, the distribution it was drawn from, the history before each and at the end.

        Draft i of a round that starts at position s is drawn with draw i of (s, ``TOKEN``): a rule may have looked at a
        draft that it did not keep, so a later round must not draw that position with the same number.
        """
        rows, latest = self._rows, self.latest[:, -self.unread :]
        uniform = rows.randomness.draws(rows.positions, Purpose.TOKEN, self._gamma)
        if self._whole is None:
            return chain(self._step, self._draft.token_ids, latest, uniform, rows.sampling, rows.history)
        with self._clock.during("draft", passes=self._gamma):
            return self._whole(latest, self._cache, uniform, rows.sampling, rows.history)

    def _step(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        with self._clock.during("draft"):
            return self._draft.step(ids, self._cache)[:, -1]

    def accept(
        self, block: Int[Tensor, "batch block"], accepted: Int[Tensor, "batch"], on_host: Int[Tensor, "batch"]
    ) -> None:
        """Drops the draft tokens that were not kept.

        Args:
            block: the tokens of each row's round, of which the first ``accepted + 1`` are emitted.
            on_host: ``accepted`` on the CPU.
        """
        self._total = self._total + on_host + 1
        if self._draft.reads:
            self.unread = int(on_host.max()) + 1
        self._cache.lengths = self._total - self.unread
        newest = accepted.unsqueeze(1) + self._offsets
        self.latest = torch.cat([self.latest, self._draft.token_ids(block)], 1).gather(1, newest)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self._cache.keep(rows)
        self._total, self.latest = self._total[rows], self.latest[rows.to(self.latest.device)]
