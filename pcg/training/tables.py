"""Embedding tables in which codes that share FSQ digits share parameters, so that rare codes learn from common ones."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pcg.codecs.fsq import FSQ
from pcg.training.sequences import AUDIO_OFFSET


class TokenTable(nn.Module):
    """A (vocabulary, width) table whose audio rows are the sum of their FSQ digits' vectors and a free vector.

    Rows that share digits start alike, so rare codes learn from common ones. The audio rows are kept centred:
    a common component would carry no information and would drown the cosines that groups are made from.
    """

    digits: Tensor

    def __init__(self, levels: list[int], width: int, scale: float) -> None:
        super().__init__()
        fsq = FSQ(levels)
        digits = torch.arange(fsq.size)[:, None] // fsq.radix % fsq.levels + torch.arange(len(levels)) * max(levels)
        self.register_buffer("digits", digits, persistent=False)
        self.by_digit = nn.Parameter(torch.randn(len(levels) * max(levels), width) * scale / len(levels) ** 0.5)
        self.free = nn.Parameter(torch.randn(fsq.size, width) * scale * 0.2)
        self.other = nn.Parameter(torch.randn(AUDIO_OFFSET, width) * scale)

    def forward(self) -> Float[Tensor, "vocab width"]:
        audio = nn.functional.embedding_bag(self.digits, self.by_digit, mode="sum") + self.free
        return torch.cat([self.other, audio - audio.mean(0)])
