"""Which tokens are alike: the relation that coupling pairs tokens along, read off a table of groups.

``N(x)``: the tokens alike to ``x``, ``x`` among them. ``S(y)``: the tokens that ``y`` is alike to, its reverse. Where
group ``k`` is token ``k``'s own (every builder but k-means), ``N(x) = G_x``, and ``S(y)`` are the tokens whose group
holds ``y``: nearer than "share a group", by which two tokens may be twice as far apart. Where groups are nobody's own,
the tokens that share a group are alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from pcg.groups.table import SMALL, GroupTable, bag, ragged

MOST = 1 << 27  # pairs of tokens that share a group, where groups overlap and the pairs have to be written out


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The neighbours of every token, as CSR.

    Attributes:
        starts, members: the rows, ascending within a row.
        row: of each token; None where row t is token t's. Disjoint groups have one row for all members.
        spans: start and size of each token's row.
        widest: the longest row.
        owners: whose neighbour each of ``members`` is, where row t is token t's.
        padded: every token's neighbours, filled up with the token itself; None of a large table.
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
        """The neighbours of each token, filled up with the token itself."""
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
    disjoint: tokens are alike just when they are in one group of a partition, so that neighbours of a token have
        the same neighbours.
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
            ValueError: groups are nobody's own, overlap, and put too many pairs of tokens together.
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
    """For each token all that share a group with it."""
    sizes, members, pairs = [], [], 0
    for block in groups.sharing():
        sizes.append(block.sum(1))
        members.append(block.nonzero()[:, 1].to(torch.int32))
        pairs += len(members[-1])
        if pairs > MOST:
            raise ValueError(
                f"groups: more than {MOST:,} pairs of tokens share one of these overlapping groups; coupling needs "
                "smaller ones, disjoint ones, or one group a token (as cosine, knn, sound and lattice make)"
            )
    return torch.cat([sizes[0].new_zeros(1), torch.cat(sizes).cumsum(0)]).to(torch.int32), torch.cat(members)


def _filled(
    tokens: Int[Tensor, "*shape"], spans: Int[Tensor, "*shape 2"], members: Int[Tensor, "memberships"], width: int
) -> Int[Tensor, "*shape width"]:
    ids, inside = ragged(spans, members, width)
    return torch.where(inside, ids, tokens.unsqueeze(-1))
