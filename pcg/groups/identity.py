"""Every token a group of its own, for a rule with groups to be compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcg.groups.table import GroupTable


@dataclass(frozen=True)
class Identity:
    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        vocab = len(embeddings)
        return GroupTable.from_csr(torch.ones(vocab, dtype=torch.long), torch.arange(vocab), vocab)
