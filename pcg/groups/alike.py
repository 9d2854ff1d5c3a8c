"""Which tokens are alike: the relation along which coupling pairs tokens, derived from a table of groups.

``N(x)``: the tokens alike to ``x``, including ``x``. ``S(y)``: the tokens that ``y`` is alike to, the reverse.
If group ``k`` belongs to token ``k`` (every builder but k-means), ``N(x) = G_x``, and ``S(y)`` are the tokens whose
group holds ``y``. This is a closer relation than "share a group", by which two tokens may be twice as far apart. If
groups belong to no token, the tokens that share a group are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from pcg.groups.table import SMALL, GroupTable, bag, ragged

MOST = 1 << 27  # pairs of tokens that share a group at most, if groups overlap and all pairs must be listed


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The neighbours of every token, as CSR.

    Attributes:
        starts, members: the rows, ascending within a row.
        row: the row of each token; None if token t has row t. The members of a disjoint group share one row.
        spans: start and size of each token's row.
        widest: size of the longest row.
        owners: the row that each of ``members`` stands in.
        padded: every token's neighbours, padded with the token itself; None for a large table.
    """

    starts: Int[Tensor, "starts"]
    members: Int[Tensor, "memberships"]
    row: Int[Tensor, "vocab"] | None
    spans: Int[Tensor, "vocab 2"]
    widest: int
    owners: Int[Tensor, "memberships"]
    padded: Int[Tensor, "vocab width"] | None

    @classmethod
    def make(
        cls, starts: Int[Tensor, "starts"], members: Int[Tensor, "memberships"], row: Int[Tensor, "vocab"] | None = None
    ) -> Neighbours:
        spans = torch.stack([starts[:-1], starts.diff()], 1).long()
        spans = spans if row is None else spans[row]
        widest = int(spans[:, 1].max())
        small = len(spans) * widest <= SMALL
        padded = _filled(torch.arange(len(spans), device=starts.device), spans, members, widest) if small else None
        owners = torch.arange(len(starts) - 1, dtype=torch.int32, device=starts.device)
        return cls(starts, members, row, spans, widest, owners.repeat_interleave(starts.diff()), padded)

    def of(self, tokens: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape width"]:
        """The neighbours of each token, padded with the token itself."""
        if self.padded is not None:
            return embedding(tokens, self.padded)
        return _filled(tokens, self.spans[tokens], self.members, self.widest)

    def total(self, values: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """The sum of ``values`` over each token's neighbours."""
        sums = bag(self.starts, self.members, values)
        return sums if self.row is None else sums[..., self.row]


@dataclass(frozen=True, eq=False)
class Alike:
    """Attributes:
    near: ``N``.
    back: ``S``, its reverse; the same object where the relation is symmetric.
    disjoint: the groups are a partition, so that all neighbours of a token have the same neighbours.
    """

    near: Neighbours
    back: Neighbours
    disjoint: bool

    @property
    def reversed(self) -> Alike:
        return Alike(self.back, self.near, self.disjoint)

    @classmethod
    def of(cls, groups: GroupTable) -> Alike:
        """
        Raises:
            ValueError: groups belong to no token and overlap, and too many pairs of tokens share one.
        """
        if groups.seeded:
            near = Neighbours.make(groups.member_starts, groups.members)
            if groups.symmetric:
                return cls(near, near, False)
            return cls(near, Neighbours.make(groups.holder_starts, groups.holders), False)
        if len(groups.members) == groups.vocab_size:  # every token in one group
            near = Neighbours.make(groups.member_starts, groups.members, groups.holders.long())
            return cls(near, near, True)
        near = Neighbours.make(*_sharing(groups))
        return cls(near, near, False)


def _sharing(groups: GroupTable) -> tuple[Int[Tensor, "starts"], Int[Tensor, "pairs"]]:
    """For each token, all tokens that share a group with it."""
    sizes, members, pairs = [], [], 0
    for block in groups.sharing():
        sizes.append(block.sum(1))
        members.append(block.nonzero()[:, 1].to(torch.int32))
        pairs += len(members[-1])
        if pairs > MOST:
            raise ValueError(
                f"groups: more than {MOST:,} pairs of tokens share one of these overlapping groups; use smaller or "
                "disjoint groups, or one group a token (cosine, knn, sound, lattice)"
            )
    return torch.cat([sizes[0].new_zeros(1), torch.cat(sizes).cumsum(0)]).to(torch.int32), torch.cat(members)


def _filled(
    tokens: Int[Tensor, "*shape"], spans: Int[Tensor, "*shape 2"], members: Int[Tensor, "memberships"], width: int
) -> Int[Tensor, "*shape width"]:
    ids, inside = ragged(spans, members, width)
    return torch.where(inside, ids, tokens.unsqueeze(-1))
