"""Cosine similarities of all pairs of rows, block by block, each pair once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

BLOCK = 2048  # rows a block: its similarities take 16 MB
_LARGE = 16384  # rows from which on a build takes long enough for a progress bar


@dataclass(frozen=True)
class GroupableRows:
    """The rows of an embedding table that may be grouped; they are normalised block by block, without a second copy.

    Attributes:
        ids: their token ids, ascending.
        mean: subtracted before normalising, or None.
    """

    embeddings: Float[Tensor, "vocab dim"]
    ids: Int[Tensor, "rows"]
    mean: Float[Tensor, "dim"] | None

    @classmethod
    def of(
        cls, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None, center: bool
    ) -> GroupableRows:
        """
        Raises:
            ValueError: the mask has another length or allows nothing, or a groupable row is not finite.
        """
        ids = groupable_ids(embeddings, groupable)
        sums = [embeddings[part].float().sum(0) for part in ids.split(BLOCK)]
        total = torch.stack(sums).sum(0)
        if not total.isfinite().all():
            raise ValueError("embeddings: a groupable row holds NaN or infinity")
        return cls(embeddings, ids, total / len(ids) if center else None)

    def __len__(self) -> int:
        return len(self.ids)

    def block(self, start: int) -> Float[Tensor, "block dim"]:
        """Rows ``start`` to ``start + BLOCK``, scaled to length 1; a row of zeros stays zero."""
        rows = self.embeddings[self.ids[start : start + BLOCK]].float()
        if self.mean is not None:
            rows = rows - self.mean
        return torch.nn.functional.normalize(rows, dim=1)

    def pairs(self, title: str) -> Iterator[tuple[int, int, Float[Tensor, "rows columns"]]]:
        """``(i, j, similarities)`` for each pair of blocks with ``i <= j``, where i and j are their first rows."""
        starts = range(0, len(self), BLOCK)
        total = len(starts) * (len(starts) + 1) // 2
        with Progress(transient=True, disable=len(self) < _LARGE) as progress:
            task = progress.add_task(title, total=total)
            for i in starts:
                left = self.block(i)
                for j in range(i, len(self), BLOCK):
                    right = left if i == j else self.block(j)
                    yield i, j, left @ right.t()
                    progress.advance(task)


def groupable_ids(
    embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None
) -> Int[Tensor, "rows"]:
    """The ids of the groupable tokens, ascending.

    Raises:
        ValueError: the mask has another length than the table, or allows nothing.
    """
    if groupable is None:
        return torch.arange(len(embeddings), device=embeddings.device)
    if len(groupable) != len(embeddings):
        raise ValueError(f"groupable has {len(groupable)} entries, the embedding table {len(embeddings)} rows")
    if not groupable.any():
        raise ValueError("no token is groupable")
    return groupable.to(embeddings.device).nonzero().squeeze(1)
