"""The tokens before a position that sampling reads: repetition penalty and repetition-aware sampling count them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

NONE = -1  # in a window, stands for a position before the first token


class History(NamedTuple):
    """The tokens before each position, over any leading dimensions. A field that sampling does not read is None.

    Attributes:
        seen: whether a token is in the voice prompt or was generated; a repetition penalty without a window applies.
        window: the last tokens of these, the newest last; a penalty over a window applies to them.
        generated: the last generated tokens, the newest last; repetition-aware sampling counts them.
    """

    seen: Bool[Tensor, "*batch vocab"] | None
    window: Int[Tensor, "*batch window"] | None
    generated: Int[Tensor, "*batch generated"] | None

    def map(self, function: Callable[[Tensor], Tensor]) -> History:
        """``function`` of each field that is not None."""
        return History(*(None if part is None else function(part) for part in self))

    def after(self, tokens: Int[Tensor, "*batch"]) -> History:
        """The histories after one more token each, as new tensors."""
        token = tokens.unsqueeze(-1)
        seen = None if self.seen is None else self.seen.scatter(-1, token, True)
        window, generated = (
            None if recent is None else torch.cat([recent[..., 1:], token], -1)
            for recent in (self.window, self.generated)
        )
        return History(seen, window, generated)

    def after_block(self, block: Int[Tensor, "batch tokens"], count: Int[Tensor, "batch"]) -> History:
        """The histories after the first ``count`` (1 or more) tokens of each row's block."""
        steps = torch.arange(block.shape[1], device=block.device)
        kept = torch.where(steps < count.unsqueeze(1), block, block[:, :1])
        seen = None if self.seen is None else self.seen.scatter(1, kept, True)

        def ended(recent: Int[Tensor, "batch window"]) -> Int[Tensor, "batch window"]:
            newest = count.unsqueeze(1) + torch.arange(recent.shape[1], device=block.device)
            return torch.cat([recent, block], 1).gather(1, newest)

        window, generated = (None if recent is None else ended(recent) for recent in (self.window, self.generated))
        return History(seen, window, generated)


def stack(histories: Sequence[History], dim: int) -> History:
    """As ``torch.stack``."""
    parts = zip(*histories, strict=True)
    return History(*(None if part[0] is None else torch.stack(part, dim) for part in parts))


def join(histories: Sequence[History], dim: int) -> History:
    """As ``torch.cat``."""
    parts = zip(*histories, strict=True)
    return History(*(None if part[0] is None else torch.cat(part, dim) for part in parts))


def along(before: History, tokens: Int[Tensor, "length"]) -> History:
    """The histories before each of ``tokens`` and after the last, where ``before`` is that of the first."""
    histories = [before]
    for token in tokens:
        histories.append(histories[-1].after(token))
    return stack(histories, 0)


def counts(recent: Int[Tensor, "*batch window"], vocab_size: int) -> Int[Tensor, "*batch {vocab_size}"]:
    """How often each token is in a window."""
    tokens = torch.where(recent == NONE, vocab_size, recent)
    counted = torch.zeros((*recent.shape[:-1], vocab_size + 1), dtype=torch.int64, device=recent.device)
    return counted.scatter_add(-1, tokens, torch.ones_like(tokens))[..., :vocab_size]
