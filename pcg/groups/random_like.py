"""A control: groups of the same sizes and overlaps as another builder's, with random members."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pcg.groups.similarity import groupable_ids
from pcg.groups.table import GroupBuilder, GroupTable


@dataclass(frozen=True)
class RandomLike:
    """Groups of the builder ``like`` after a random permutation of the groupable tokens.

    A permutation keeps every size and every overlap and changes only *which* tokens are together: what a rule gains on
    these groups it gains by their size alone.
    """

    like: GroupBuilder
    seed: int = 0

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: as the builder.
        """
        table = self.like.build(embeddings, groupable)
        ids = groupable_ids(embeddings, groupable).cpu()
        renamed = torch.arange(table.vocab_size)
        renamed[ids] = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.seed))]

        one_a_token = len(table) == table.vocab_size  # then group k stays token k's
        order = renamed.argsort() if one_a_token else torch.arange(len(table))
        new_group = torch.empty_like(order)
        new_group[order] = torch.arange(len(order))
        sizes = table.sizes.long().cpu()
        group = new_group.repeat_interleave(sizes)
        keys = (group * table.vocab_size + renamed[table.members.cpu()]).sort().values
        return GroupTable.from_csr(sizes[order], keys % table.vocab_size, table.vocab_size, table.symmetric)
