"""Groups from the codec's geometry: a token is a point of an FSQ lattice, and its group are the points around it.

Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505) numbers its codes in mixed radix, first dimension
fastest: ``token = sum_i digit_i prod_{j<i} levels_j``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.constraints import FROM_0, Constraint, checked
from pcg.groups.similarity import groupable_ids
from pcg.groups.table import GroupTable


@checked
@dataclass(frozen=True)
class Lattice:
    """``G_k``: the groupable tokens whose digits differ from k's by at most ``radius`` steps in all (an L1 ball).

    L1 balls grow in finer steps than Chebyshev balls: with eight dimensions of four levels radius 1 holds up to 17
    tokens and radius 2 up to 145, while the Chebyshev ball of radius 1 holds up to 6,561.

    Attributes:
        levels: of each dimension; their product is the size of the codebook, whose tokens come first in the vocabulary.
    """

    levels: Annotated[
        Sequence[int], Constraint(lambda levels: min(levels, default=0) >= 1, "some levels, each 1 or more")
    ]
    radius: Annotated[int, FROM_0] = 1

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """The table; of ``embeddings`` only the number of rows is used.

        Raises:
            ValueError: the mask does not fit, or the lattice has another size than the codebook.
        """
        vocab, size = len(embeddings), math.prod(self.levels)
        may = torch.zeros(vocab, dtype=torch.bool)
        may[groupable_ids(embeddings, groupable).cpu()] = True
        beyond = vocab - size if groupable is None else int(may[size:].sum())
        if size > vocab or beyond > (groupable is None):  # without a mask, one token may follow: end-of-speech
            raise ValueError(f"lattice: levels={list(self.levels)} make {size} tokens, not those of this codebook")
        may[size:] = False
        tokens = may.nonzero().squeeze(1)
        ball = _ball(len(self.levels), self.radius)
        pairs = torch.cat([self._shifted(tokens, torch.tensor(shift), may) for shift in ball])
        alone = (~may).nonzero().squeeze(1)
        keys = torch.cat([pairs, alone * vocab + alone]).sort().values
        return GroupTable.from_csr(torch.bincount(keys // vocab, minlength=vocab), keys % vocab, vocab, symmetric=True)

    def _shifted(
        self, tokens: Int[Tensor, "tokens"], shift: Int[Tensor, "dimensions"], may: Bool[Tensor, "vocab"]
    ) -> Int[Tensor, "pairs"]:
        """``token * vocab + neighbour`` for each token whose neighbour in this direction exists and may be grouped."""
        levels = torch.tensor(self.levels)
        strides = torch.cat([torch.ones(1, dtype=torch.long), levels.cumprod(0)[:-1]])
        digits = tokens.unsqueeze(1) // strides % levels + shift
        inside = ((digits >= 0) & (digits < levels)).all(1)
        tokens, neighbours = tokens[inside], (digits[inside] * strides).sum(1)
        grouped = may[neighbours]
        return tokens[grouped] * len(may) + neighbours[grouped]


def _ball(dimensions: int, radius: int) -> Iterator[tuple[int, ...]]:
    """All integer vectors of L1 norm at most ``radius``."""
    if dimensions == 0:
        yield ()
        return
    for step in range(-radius, radius + 1):
        for rest in _ball(dimensions - 1, radius - abs(step)):
            yield (step, *rest)
