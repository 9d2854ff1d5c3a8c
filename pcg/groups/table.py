"""The sparse table of groups: the members of each group, and the groups that hold each token.

Both directions are int32 CSR. The weights ``w[k,t] = 1/|S(t)|`` are derived, and no dense matrix is ever made.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from pcg.sampling import may_look

SMALL = 2_000_000  # padded memberships up to which a table is also held padded: 32 MB


@dataclass(frozen=True, eq=False)
class GroupTable:
    """Groups of token ids; they may overlap, and every token is in at least one.

    Attributes:
        vocab_size: size of the speech vocabulary, end-of-speech included.
        member_starts: where each group's members begin in ``members``, then the length of ``members``.
        members: token ids group by group, ascending within a group.
        holder_starts: where each token's groups begin in ``holders``, then the length of ``holders``.
        holders: ``S(t)`` token by token, ascending. The same storage as ``members`` if the relation is symmetric.
        ranks: for each of ``members``, how many of its group are nearer to the token that the group belongs to; None if
            the builder has no order.
        key: of the table's file in the cache (``pcg.groups.cache``); None if it has none.
    """

    vocab_size: int
    member_starts: Int[Tensor, "group_starts"]
    members: Int[Tensor, "memberships"]
    holder_starts: Int[Tensor, "token_starts"]
    holders: Int[Tensor, "memberships"]
    ranks: Int[Tensor, "memberships"] | None = None
    key: str | None = None

    @classmethod
    def from_members(cls, members: Sequence[Sequence[int]], vocab_size: int) -> GroupTable:
        """The table in which ``members[k]`` are the ids of group ``k``; ids in no group become singletons at the end.

        Raises:
            ValueError: a group is empty, holds a token twice, or holds an id outside the vocabulary.
        """
        wrong = [
            message
            for k, group in enumerate(members)
            for bad, message in [
                (not group, f"group {k} is empty"),
                (len(set(group)) < len(group), f"group {k} holds a token twice"),
                (any(not 0 <= t < vocab_size for t in group), f"group {k} holds an id outside 0 to {vocab_size - 1}"),
            ]
            if bad
        ]
        if wrong:
            raise ValueError("groups: " + "; ".join(wrong))
        grouped = {t for group in members for t in group}
        groups = [sorted(group) for group in members] + [[t] for t in range(vocab_size) if t not in grouped]
        sizes = torch.tensor([len(group) for group in groups])
        return cls.from_csr(sizes, torch.tensor([t for group in groups for t in group]), vocab_size)

    @classmethod
    def from_csr(
        cls,
        sizes: Int[Tensor, "groups"],
        members: Int[Tensor, "memberships"],
        vocab_size: int,
        symmetric: bool = False,
        ranks: Int[Tensor, "memberships"] | None = None,
    ) -> GroupTable:
        """The table of groups of these sizes.

        Args:
            members: of all groups in a row, ascending within a group; every token is in at least one.
            symmetric: True promises one group a token, and ``t in G_k`` if and only if ``k in G_t``; False: it is
                checked.
            ranks: of ``members``, if there is an order of nearness.
        """
        ranks = None if ranks is None else ranks.to(torch.int32)
        members, starts = members.to(torch.int32), _starts(sizes)
        if symmetric:
            return cls(vocab_size, starts, members, starts, members, ranks)
        groups = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), sizes)
        holders = groups[torch.sort(members, stable=True).indices]
        holder_starts = _starts(torch.bincount(members, minlength=vocab_size))
        if torch.equal(holders, members) and torch.equal(holder_starts, starts):
            return cls(vocab_size, starts, members, starts, members, ranks)
        return cls(vocab_size, starts, members, holder_starts, holders, ranks)

    def __len__(self) -> int:
        """The number of groups."""
        return len(self.member_starts) - 1

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, GroupTable)
            and self.vocab_size == other.vocab_size
            and torch.equal(self.member_starts, other.member_starts)
            and torch.equal(self.members, other.members)
        )

    __hash__ = None  # type: ignore[assignment]  # tables are compared by content, as tensors are

    @cached_property
    def sizes(self) -> Int[Tensor, "groups"]:
        return self.member_starts.diff()

    @cached_property
    def counts(self) -> Int[Tensor, "vocab"]:
        """``|S(t)|``."""
        return self.holder_starts.diff()

    @cached_property
    def weights(self) -> Float[Tensor, "vocab"]:
        """``w[k,t] = 1/|S(t)|`` for every group that holds ``t``; float64, so that the order of sums is irrelevant."""
        return 1 / self.counts.to(torch.float64)

    @cached_property
    def _member_spans(self) -> Int[Tensor, "groups 2"]:
        """Start and size of each group side by side, int64, so that one look-up gives both."""
        return torch.stack([self.member_starts[:-1], self.sizes], 1).long()

    @cached_property
    def _choices(self) -> tuple[Int[Tensor, "vocab"], Float[Tensor, "vocab"]]:
        """Start and number of each token's groups, in the types that ``draw_group`` computes with; two look-ups by
        ``take`` are faster than one of a row."""
        return self.holder_starts[:-1].long(), self.counts.to(torch.float64)

    @cached_property
    def _largest(self) -> int:
        """The number of members of the largest group."""
        return int(self.sizes.max())

    @cached_property
    def _most(self) -> int:
        """The largest number of groups that hold one token."""
        return int(self.counts.max())

    def draw_group(self, tokens: Int[Tensor, "*shape"], uniform: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """One group for each token, drawn from ``w[., t]``: all of its groups are equally likely."""
        first, count = (column.take(tokens.long()) for column in self._choices)
        return self.holders.take(first + (uniform * count).long())

    def members_of(
        self, groups: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape width"], Float[Tensor, "*shape width"]]:
        """Members of each group, padded to at least the largest of these groups, and their weights: 0 where padded."""
        if self._padded is not None:
            ids, weights = self._padded
            return embedding(groups, ids), embedding(groups, weights)  # faster than indexing
        ids, inside = ragged(self._member_spans[groups], self.members, self._largest)
        return ids, self.weights[ids] * inside

    @cached_property
    def _padded(self) -> tuple[Int[Tensor, "groups width"], Float[Tensor, "groups width"]] | None:
        """All groups' padded members and weights; None for a large table. The number of operations decides what a test
        of one token costs, and this look-up takes two instead of thirteen."""
        if len(self) * self._largest > SMALL:
            return None
        ids, inside = ragged(self._member_spans, self.members, self._largest)
        return ids, self.weights[ids] * inside

    def holders_of(
        self, tokens: Int[Tensor, "*shape"]
    ) -> tuple[Int[Tensor, "*shape width"], Bool[Tensor, "*shape width"]]:
        """The groups of each token, padded to the largest number of these, and which entries are no padding."""
        spans = torch.stack([self.holder_starts[:-1], self.counts], 1).long()
        return ragged(spans[tokens], self.holders, self._most)

    def coarse(
        self, probs: Float[Tensor, "*batch vocab"], wanted: Bool[Tensor, ""] | None = None
    ) -> Float[Tensor, "*batch groups"]:
        """``P_c(k) = sum_t w[k,t] p(t)``: a token's probability is split evenly over its groups.

        Args:
            wanted: if false, the sums are 0 and cost next to nothing; None means true.

        Raises:
            ValueError: ``probs`` are over another vocabulary.
        """
        if probs.shape[-1] != self.vocab_size:
            raise ValueError(f"the probabilities are over {probs.shape[-1]} tokens, the groups over {self.vocab_size}")
        return bag(_if(wanted, self.member_starts), self.members, probs * self.weights.to(probs.dtype))

    def spread(
        self, values: Float[Tensor, "*batch groups"], wanted: Bool[Tensor, ""] | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        """``sum_k w[k,t] values(k)``: the mean over each token's groups. ``wanted``: as for ``coarse``."""
        return bag(_if(wanted, self.holder_starts), self.holders, values) * self.weights.to(values.dtype)

    def sharing_mass(self, probs: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """For each token, the probability of all tokens that share a group with it, itself included.

        It multiplies with the relation "shares a group", which is built in blocks: once for up to 8,192 tokens, at each
        call for more. Meant for analysis, with many rows at once.
        """
        rows = probs.reshape(-1, self.vocab_size)
        blocks = self._sharing_blocks if self.vocab_size <= 8192 else self.sharing()
        sums = torch.cat([rows @ block.to(rows.dtype).t() for block in blocks], 1)
        return sums.view(probs.shape)

    def derive(self) -> None:
        """Compute all cached properties now: a compiled graph cannot do so at first use."""
        for name in ("weights", "_member_spans", "_choices", "_largest", "_most", "_padded"):
            getattr(self, name)

    @cached_property
    def _sharing_blocks(self) -> list[Bool[Tensor, "block vocab"]]:
        return list(self.sharing())

    def sharing(self, block: int = 512) -> Iterator[Bool[Tensor, "block vocab"]]:
        """Whether each token shares a group with each other one, ``block`` tokens at a time."""
        for tokens in torch.arange(self.vocab_size, device=self.members.device).split(block):
            ids, inside = self.holders_of(tokens)
            held = torch.zeros(len(tokens), len(self) + 1, device=ids.device)
            held.scatter_(1, ids.masked_fill(~inside, len(self)), 1.0)  # padding goes into an extra column
            yield bag(self.holder_starts, self.holders, held[:, :-1]) > 0

    def in_vocabulary(self, ids: Int[Tensor, "vocab"], vocab_size: int) -> GroupTable:
        """The same groups over a larger vocabulary, in which every other token is a singleton.

        Args:
            ids: of each token of this table in the larger vocabulary.

        Raises:
            ValueError: the number of different ids is not that of the tokens, or an id is outside the vocabulary.
        """
        ids = ids.to(self.members.device).long()
        if len(ids) != self.vocab_size or len(ids.unique()) < len(ids):
            raise ValueError(
                f"the groups are over {self.vocab_size} tokens, but there are {len(ids.unique())} different ids"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
            raise ValueError(f"token ids go from {int(ids.min())} to {int(ids.max())}; allowed: 0 to {vocab_size - 1}")
        alone = torch.ones(vocab_size, dtype=torch.bool, device=ids.device).index_fill_(0, ids, False).nonzero()[:, 0]
        owners = torch.repeat_interleave(torch.arange(len(self), device=ids.device), self.sizes)
        if self.symmetric or self.seeded:  # the groups stay in the order of their tokens
            owners, last = ids[owners], alone
        else:
            last = len(self) + torch.arange(len(alone), device=ids.device)
        keys, order = torch.cat([owners * vocab_size + ids[self.members], last * vocab_size + alone]).sort()
        ranks = self.ranks
        if ranks is not None:
            ranks = torch.cat([ranks, torch.zeros_like(alone, dtype=torch.int32)])[order]
        return GroupTable.from_csr(torch.bincount(keys // vocab_size), keys % vocab_size, vocab_size, ranks=ranks)

    @classmethod
    def side_by_side(cls, tables: Sequence[GroupTable]) -> GroupTable:
        """One table over the vocabularies of all tables, one after another; no group holds tokens of two tables."""
        starts = torch.tensor([table.vocab_size for table in tables]).cumsum(0).tolist()
        members = [table.members.cpu() + start for table, start in zip(tables, [0, *starts], strict=False)]
        sizes = torch.cat([table.sizes.cpu() for table in tables])
        symmetric = all(table.symmetric for table in tables)
        ranks = [
            torch.zeros_like(table.members).cpu() if table.ranks is None else table.ranks.cpu()
            for table in tables
            if table.ranks is not None or int(table.sizes.max()) == 1  # a singleton's rank is 0
        ]
        ordered = torch.cat(ranks) if len(ranks) == len(tables) else None
        return cls.from_csr(sizes, torch.cat(members), starts[-1], symmetric, ordered)

    def to(self, device: torch.device | str) -> GroupTable:
        starts, members = self.member_starts.to(device), self.members.to(device)
        ranks = None if self.ranks is None else self.ranks.to(device)
        if self.symmetric:
            return GroupTable(self.vocab_size, starts, members, starts, members, ranks, self.key)
        holder_starts, holders = self.holder_starts.to(device), self.holders.to(device)
        return GroupTable(self.vocab_size, starts, members, holder_starts, holders, ranks, self.key)

    @cached_property
    def seeded(self) -> bool:
        """Whether every token ``k`` has group ``k`` as its own and is in it."""
        if len(self) != self.vocab_size:
            return False
        owners = torch.repeat_interleave(torch.arange(len(self), device=self.members.device), self.sizes)
        return int((owners == self.members).sum()) == self.vocab_size

    @property
    def symmetric(self) -> bool:
        return self.holders is self.members

    def check(self, groupable: Bool[Tensor, "vocab"]) -> None:
        """Check that the table fits a model's vocabulary and does not group what may not be grouped.

        Args:
            groupable: False for end-of-speech and for rows that were never trained.

        Raises:
            ValueError: the vocabulary has another size, or a token that is not groupable shares a group.
        """
        if len(groupable) != self.vocab_size:
            raise ValueError(
                f"the groups are over {self.vocab_size} tokens, the model's vocabulary has {len(groupable)}"
            )
        shared = torch.repeat_interleave(self.sizes > 1, self.sizes)
        mixed = self.members[shared & ~groupable.to(self.members.device)[self.members]].unique().tolist()
        if mixed:
            raise ValueError(
                f"groups: tokens {mixed[:8]} share a group; end-of-speech and untrained rows must be singletons"
            )

    def report(self) -> dict[str, int | float]:
        """Sizes of groups in tokens, ``singleton_share`` (of the groups), and bytes of both directions."""
        sizes = self.sizes.double()
        tensors = {x.data_ptr(): x for x in (self.member_starts, self.members, self.holder_starts, self.holders)}
        return {
            "groups": len(self),
            "mean_size": sizes.mean().item(),
            "median_size": sizes.quantile(0.5).item() if len(sizes) < 1 << 24 else sizes.median().item(),
            "max_size": int(sizes.max()),
            "singleton_share": (sizes == 1).double().mean().item(),
            "bytes": sum(x.numel() * x.element_size() for x in tensors.values()),
        }

    def in_words(self) -> str:
        """How many groups have several tokens and how many tokens these have, for a log."""
        sizes = self.sizes[self.sizes > 1].double()
        if not len(sizes):
            return f"every group is one of the {self.vocab_size:,} tokens: this is exact speculative decoding"
        return (
            f"{len(sizes):,} groups of {sizes.mean().item():.1f} tokens on average, {int(sizes.max()):,} at most; "
            f"{len(self) - len(sizes):,} of {self.vocab_size:,} tokens have a group of their own"
        )

    def warn(self, name: str) -> None:
        """Warn that ``name`` groups nothing, or that one group holds most tokens."""
        largest = int(self.sizes.max())
        if largest == 1:
            warnings.warn(f"{name}: every group is a singleton, so this is exact speculative decoding", stacklevel=2)
        elif largest > self.vocab_size / 2:
            warnings.warn(f"{name}: one group holds {largest} of {self.vocab_size} tokens", stacklevel=2)

    def save(self, path: str | Path) -> None:
        """Write one direction as safetensors; ``load`` derives the other."""
        tensors = {"member_starts": self.member_starts.cpu(), "members": self.members.cpu()}
        if self.ranks is not None:
            tensors["ranks"] = self.ranks.cpu()
        save_file(tensors, path, metadata={"vocab_size": str(self.vocab_size), "symmetric": str(self.symmetric)})

    @classmethod
    def load(cls, path: str | Path) -> GroupTable:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            starts, members = file.get_tensor("member_starts"), file.get_tensor("members")
            ranks = file.get_tensor("ranks") if "ranks" in file.keys() else None  # noqa: SIM118
        symmetric = metadata["symmetric"] == "True"
        return cls.from_csr(starts.diff(), members, int(metadata["vocab_size"]), symmetric, ranks)


def _starts(sizes: Int[Tensor, "rows"]) -> Int[Tensor, "rows+1"]:
    starts = torch.zeros(len(sizes) + 1, dtype=torch.int32, device=sizes.device)
    starts[1:] = sizes.cumsum(0)
    return starts


def ragged(
    spans: Int[Tensor, "*shape 2"], values: Int[Tensor, "memberships"], widest: int
) -> tuple[Int[Tensor, "*shape width"], Bool[Tensor, "*shape width"]]:
    """Values of CSR rows side by side, int64, padded with whatever follows, and which entries are no padding.

    Rows are padded to the longest of these rows, or to ``widest`` where values may not be read (``may_look``).
    """
    first, size = spans.unsqueeze(-1).unbind(-2)
    steps = torch.arange(int(size.max()) if may_look(size) else widest, device=values.device)
    return values[(first + steps).clamp_(max=len(values) - 1)].long(), steps < size


def _if(wanted: Bool[Tensor, ""] | None, starts: Int[Tensor, "starts"]) -> Int[Tensor, "starts"]:
    """The starts, or those of empty rows if nothing is wanted."""
    return starts if wanted is None else starts * wanted


def bag(
    starts: Int[Tensor, "starts"], values: Int[Tensor, "memberships"], inputs: Float[Tensor, "*batch columns"]
) -> Float[Tensor, "*batch {len(starts)-1}"]:
    """The sum of ``inputs`` over the columns of each CSR row."""
    columns = inputs.reshape(-1, inputs.shape[-1]).t().clone(memory_format=torch.contiguous_format)
    sums = embedding_bag(values, columns, starts, mode="sum", include_last_offset=True)
    return sums.t().reshape(*inputs.shape[:-1], len(starts) - 1)


@runtime_checkable
class GroupBuilder(Protocol):
    """Builds a table; each builder is a file in this folder."""

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable: ...
