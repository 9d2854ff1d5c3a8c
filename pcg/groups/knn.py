"""Groups of a fixed size: each token with its k nearest by cosine similarity.

The relation is not symmetric: t may be among the nearest of s without s being among the nearest of t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.constraints import FROM_1, checked
from pcg.groups.similarity import BLOCK, GroupableRows
from pcg.groups.table import GroupTable


@checked
@dataclass(frozen=True)
class KNN:
    """``G_s``: token s and the ``k`` groupable tokens most similar to it, with their order; the others are singletons.

    Attributes:
        center: subtract the mean row before comparing.
    """

    k: Annotated[int, FROM_1]
    center: bool = False

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: the mask or the rows do not fit, or there are fewer than k other groupable tokens.
        """
        rows = GroupableRows.of(embeddings, groupable, self.center)
        if self.k >= len(rows):
            raise ValueError(f"knn: k={self.k}, but a token has only {len(rows) - 1} others; set k to that or less")
        ids = rows.ids.cpu()
        groups, order = torch.cat([ids.unsqueeze(1), ids[self._nearest(rows).cpu()]], 1).sort(1)
        sizes = torch.ones(len(embeddings), dtype=torch.long)
        sizes[ids] = self.k + 1
        starts = sizes.cumsum(0) - sizes
        members = torch.empty(int(sizes.sum()), dtype=torch.long)
        members[starts] = torch.arange(len(embeddings))  # the singletons; groups are overwritten below
        ranks = torch.zeros_like(members)
        at = starts[ids].unsqueeze(1) + torch.arange(self.k + 1)
        members[at], ranks[at] = groups, order
        return GroupTable.from_csr(sizes, members, len(embeddings), ranks=ranks)

    def _nearest(self, rows: GroupableRows) -> Int[Tensor, "rows k"]:
        """The k most similar other rows of each row. Each pair of blocks is computed once for both of its blocks."""
        device = rows.ids.device
        best = torch.full((len(rows), self.k), -torch.inf, device=device)
        nearest = torch.zeros(len(rows), self.k, dtype=torch.long, device=device)

        def offer(at: int, similarity: Float[Tensor, "rows columns"], first: int) -> None:
            block = slice(at, at + BLOCK)
            candidates = torch.arange(first, first + similarity.shape[1], device=device).expand_as(similarity)
            best[block], chosen = torch.cat([best[block], similarity], 1).topk(self.k, 1)
            nearest[block] = torch.cat([nearest[block], candidates], 1).gather(1, chosen)

        for i, j, similarity in rows.pairs(f"{self.k} nearest"):
            if i == j:
                similarity.fill_diagonal_(-torch.inf)
            offer(i, similarity, j)
            if i != j:
                offer(j, similarity.t(), i)
        return nearest
