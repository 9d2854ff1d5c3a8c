"""The control: groups of the same sizes and overlaps as another builder's, with random members."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcg.groups.similarity import groupable_ids
from pcg.groups.table import GroupBuilder, GroupTable


@dataclass(frozen=True)
class RandomLike:
    """Groups of ``like`` after groupable tokens have changed places at random.

    A permutation keeps every size and every overlap, so only *which* tokens are together is lost: what a rule gains
    on these groups it gains by their size alone.

    Attributes:
        like: a builder, or a table that is already built.
    """

    like: GroupBuilder | GroupTable
    seed: int = 0

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: for a mask or a table that does not fit.
        """
        table = self.like if isinstance(self.like, GroupTable) else self.like.build(embeddings, groupable)
        if table.vocab_size != len(embeddings):
            raise ValueError(f"groups over {table.vocab_size} tokens, but the embeddings have {len(embeddings)} rows")
        ids = groupable_ids(embeddings, groupable).cpu()
        renamed = torch.arange(table.vocab_size)
        renamed[ids] = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.seed))]

        seeded = len(table) == table.vocab_size  # group k is token k's: keep it so
        order = renamed.argsort() if seeded else torch.arange(len(table))
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        sizes = table.sizes.long().cpu()
        group = place.repeat_interleave(sizes)
        keys = (group * table.vocab_size + renamed[table.members.cpu()]).sort().values
        return GroupTable.from_csr(sizes[order], keys % table.vocab_size, table.vocab_size, table.symmetric)
