"""The cache of the Llama family: static, with a length per row.

A pass appends the same number of tokens to every row, each at its row's own length, and attends only to entries below
that length. So rows that accept less are simply shorter, and rolling back is setting lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.models.decoder import LlamaConfig


class LlamaCache:
    """Keys and values of every layer and row; entries beyond a row's length are stale and never attended to.

    Attributes:
        has_dropped: whether ``select`` has removed entries, so that there are fewer of them than tokens.
        reads: the hidden states that are kept for a draft; state i comes after i layers, the last is normed.
        hidden: these states, at the positions of their tokens.
    """

    lengths: Int[Tensor, "batch"]  # on the CPU: shapes depend on it, so a pass need not wait for the device
    dropped: Int[Tensor, "batch"]  # entries that ``select`` has removed: the entry of position i is i - dropped

    def __init__(
        self,
        config: LlamaConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        reads: tuple[int, ...] = (),
    ) -> None:
        # zeros, because a masked NaN is still NaN
        shape = (config.layers, batch, 2 * config.kv_heads, capacity, config.head_dim)  # keys' heads, then values'
        self.states: Float[Tensor, "layers batch heads capacity dim"] = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.int64)
        self.dropped, self.has_dropped = torch.zeros(batch, dtype=torch.int64), False
        self.reads = reads
        self.hidden: Float[Tensor, "batch reads capacity width"] = torch.zeros(
            batch, len(reads), capacity if reads else 0, config.width, dtype=dtype, device=device
        )

    @property
    def entries(self) -> Int[Tensor, "batch"]:
        """The number of entries of each row."""
        return self.lengths - self.dropped if self.has_dropped else self.lengths

    def room(self, new: int) -> tuple[int, int]:
        """The first entry that a pass of ``new`` tokens writes, and the end of those that it reads.

        Raises:
            ValueError: there is no room for them.
        """
        lengths = self.entries.tolist()
        if max(lengths) + new > self.states.shape[3]:
            raise ValueError(f"cache of {self.states.shape[3]} positions is full: {max(lengths) + new} asked for")
        return min(lengths), max(lengths) + new

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        on_device = rows.to(self.states.device)
        self.states, self.hidden = self.states[:, on_device], self.hidden[on_device]
        self.lengths, self.dropped = self.lengths[rows.cpu()], self.dropped[rows.cpu()]

    def select(self, kept: Sequence[Int[Tensor, "_"]]) -> None:
        """Removes all entries of each row but these, for good; positions stay as they are."""
        counts, room = torch.tensor([len(entries) for entries in kept]), self.states.shape[3] - int(self.entries.min())
        states = self.states.new_zeros(*self.states.shape[:3], int(counts.max()) + room, self.states.shape[4])
        for row, entries in enumerate(kept):
            states[:, row, :, : len(entries)] = self.states[:, row, :, entries.to(self.states.device)]
        self.states, self.dropped = states, self.lengths - counts
        self.has_dropped = bool(self.dropped.any())

    def move(self, source: Int[Tensor, "batch"], to: Int[Tensor, "batch"]) -> None:
        """Copy each row's entry at ``source`` to ``to``: of a tree's branches one is kept, without a gap."""
        rows = torch.arange(len(source), device=source.device)
        self.states[:, rows, :, to] = self.states[:, rows, :, source]
        if self.reads:
            self.hidden[rows, :, to] = self.hidden[rows, :, source]


def check_room(prompts: Sequence[Int[Tensor, "_"]], capacity: int, positions: int) -> None:
    """Raises ValueError where prompts and the speech after them exceed a model's positions.

    The message says how long a prompt may be and how many speech tokens may follow.
    """
    if capacity <= positions:
        return
    longest = max(map(len, prompts))
    text, speech = positions - (capacity - longest), positions - longest
    advice = [f"text and voice of the prompt are {longest} tokens and may be {text}"] if text > 0 else []
    if speech > 0:
        advice.append(f"decoding.max_tokens may be {capacity - positions} less")
    shorter = ", or ".join(advice) or "shorten both"
    raise ValueError(f"{capacity} positions asked for, but the model has {positions}: {shorter}")
