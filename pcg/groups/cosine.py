"""Groups by cosine similarity of embeddings, one seeded by each token: the paper's Acoustic Similarity Groups.

Source: arXiv 2511.13732. ``center`` is ours: if the rows share a large mean, all cosines are near 1, and theta tells
tokens apart only after the mean is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.constraints import Constraint, checked
from pcg.groups.similarity import BLOCK, GroupableRows
from pcg.groups.table import GroupTable

MOST = 200_000_000  # memberships: a table of .8 GB, while at most .7 GB of hits wait to be put in order


@checked
@dataclass(frozen=True)
class Cosine:
    """``G_k = {t : cos(E_t, E_k) > theta} and k itself``, over groupable tokens; the others are singletons.

    Attributes:
        theta: in [-1, 1).
        center: subtract the mean row first; the paper's form is False.
    """

    theta: Annotated[float, Constraint(lambda theta: -1 <= theta < 1, "-1 or more, below 1")]
    center: bool = False

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: the mask or the rows do not fit, or theta is so low that the table would not fit in memory.
        """
        rows = GroupableRows.of(embeddings, groupable, self.center)
        table = _assemble(self._hits(rows), rows.ids.cpu(), len(embeddings))
        table.warn(f"cosine groups at theta {self.theta:g}{', centred' if self.center else ''}")
        return table

    def _hits(self, rows: GroupableRows) -> dict[tuple[int, int], Int[Tensor, "hits"]]:
        """The similar pairs of each pair of blocks, as ``row * BLOCK + column``: half of the relation, 4 bytes a hit.

        All hits lie in one tensor, whose pages take memory only when written: many small tensors between large
        temporary ones would fragment the heap by gigabytes.
        """
        store = torch.empty(min(MOST, len(rows) ** 2), dtype=torch.int32)
        hits, end, memberships = {}, 0, 0
        for i, j, similarity in rows.pairs(f"cosine groups, theta {self.theta:g}"):
            similar = similarity > self.theta
            if i == j:
                similar.fill_diagonal_(True)  # also with rounding errors, or for a row of zeros
            row, column = similar.cpu().nonzero().unbind(1)
            memberships += len(row) * (1 if i == j else 2)
            if memberships > MOST:
                raise ValueError(
                    f"cosine: theta={self.theta:g} makes a table of over {MOST:,} memberships, more than "
                    f"{MOST // len(rows):,} a token; raise theta{'' if self.center else ', or set center=true'}"
                )
            hits[i, j] = store[end : end + len(row)]
            hits[i, j].copy_(row * BLOCK + column)
            end += len(row)
        return hits


def _assemble(
    hits: dict[tuple[int, int], Int[Tensor, "hits"]], ids: Int[Tensor, "rows"], vocab_size: int
) -> GroupTable:
    """The table of a symmetric relation over ``ids``; all other tokens are singletons."""
    counts = torch.zeros(len(ids) + BLOCK, dtype=torch.long)
    for (i, j), packed in hits.items():
        counts[i : i + BLOCK] += torch.bincount(packed // BLOCK, minlength=BLOCK)
        if i != j:
            counts[j : j + BLOCK] += torch.bincount(packed % BLOCK, minlength=BLOCK)
    sizes = torch.ones(vocab_size, dtype=torch.long)
    sizes[ids] = counts[: len(ids)]

    starts = sizes.cumsum(0) - sizes
    members = torch.empty(int(sizes.sum()), dtype=torch.int32)
    members[starts] = torch.arange(vocab_size, dtype=torch.int32)  # the singletons; groups are overwritten below
    for i in range(0, len(ids), BLOCK):
        row, column = _relation(hits, i, len(ids))
        rank = torch.arange(len(row)) - (counts[i : i + BLOCK].cumsum(0) - counts[i : i + BLOCK])[row]
        members[starts[ids[row + i]] + rank] = ids[column].to(torch.int32)
    return GroupTable.from_csr(sizes, members, vocab_size, symmetric=True)


def _relation(
    hits: dict[tuple[int, int], Int[Tensor, "hits"]], start: int, rows: int
) -> tuple[Int[Tensor, "related"], Int[Tensor, "related"]]:
    """The related pairs of a block in order: row within the block at ``start``, and column among all rows."""
    keys = []
    for other in range(0, rows, BLOCK):
        packed = hits[min(start, other), max(start, other)].long()
        row, column = (packed // BLOCK, packed % BLOCK) if start <= other else (packed % BLOCK, packed // BLOCK)
        keys.append(row * rows + column + other)
    ordered = torch.cat(keys).sort().values
    return ordered // rows, ordered % rows
