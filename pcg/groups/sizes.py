"""The sizes of cosine groups at every theta, raw and centred, without building groups.

A group's size is the number of rows whose cosine with its seed is above theta, so one histogram of cosines for
each seed gives the sizes at all thetas. Rows are read in blocks and never held together: a table of 65,536 x 4,096
takes a few hundred megabytes, whatever its type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from pcg.groups.similarity import BLOCK

_BINS = 2000  # in [-1, 1]: thetas in steps of .001
_ALL = 8192  # rows up to which every row is a seed
Read = Callable[[int, int], Tensor]  # rows ``start`` to ``stop`` of the table


@dataclass(frozen=True)
class Sizes:
    """Sizes of the groups that each seed would have.

    Attributes:
        beyond: for each seed, the number of rows with a cosine above each of the thetas -1, -.999, ... .999, itself
            included.
        mean_cosine: between two rows; if it is large, the rows should be centred.
        rows, width: of the table.
    """

    beyond: Int[Tensor, "seeds thetas"]
    mean_cosine: float
    rows: int
    width: int

    def at(self, theta: float) -> Int[Tensor, "seeds"]:
        """The size of each seed's group at theta, which is rounded to .001."""
        return self.beyond[:, round((theta + 1) * _BINS / 2)].clamp(min=1)

    @cached_property
    def _means(self) -> Float[Tensor, "thetas"]:
        return self.beyond.clamp(min=1).double().mean(0)

    def theta_of(self, mean: int) -> float | None:
        """The smallest theta, in steps of .001, at which groups have at most ``mean`` tokens on average.

        None if there is none, or if there are no more rows than that.
        """
        if self.rows <= mean:
            return None
        small = (self._means <= mean).nonzero()
        return float(small[0]) * 2 / _BINS - 1 if len(small) else None


def chance(mean: int, rows: int, width: int) -> float | None:
    """``theta_of`` for rows of random directions (normal approximation); ``mean`` is above 1."""
    return NormalDist(0, width**-0.5).inv_cdf(1 - (mean - 1) / (rows - 1)) if mean < rows else None


def sizes(read: Read, rows: int, seeds: int = 2048) -> tuple[Sizes, Sizes]:
    """The sizes of raw and of centred rows.

    Args:
        read: returns rows of the table, in any floating-point type.
        seeds: how many are drawn at random from more than 8,192 rows; of fewer, all are seeds.

    Raises:
        ValueError: there are fewer than two rows, or one is not finite.
    """
    if rows < 2:
        raise ValueError(f"a table of {rows} row(s) has no groups; at least 2 are needed")
    drawn = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[: rows if rows <= _ALL else seeds]
    mean, chosen = _mean_and_rows(read, rows, drawn.sort().values)
    raw, centred = _Counted(chosen), _Counted(chosen - mean)
    for start in range(0, rows, BLOCK):
        block = read(start, min(start + BLOCK, rows)).float()
        raw.see(block)
        centred.see(block - mean)
    return raw.sizes(rows), centred.sizes(rows)


def _mean_and_rows(
    read: Read, rows: int, chosen: Int[Tensor, "seeds"]
) -> tuple[Float[Tensor, "width"], Float[Tensor, "seeds width"]]:
    """The mean row, and the chosen rows."""
    sums, kept = [], []
    for start in range(0, rows, BLOCK):
        block = read(start, min(start + BLOCK, rows)).float()
        sums.append(block.sum(0))
        kept.append(block[chosen[(chosen >= start) & (chosen < start + BLOCK)] - start])
    mean = torch.stack(sums).sum(0) / rows
    if not mean.isfinite().all():
        raise ValueError("the table holds NaN or infinity")
    return mean, torch.cat(kept)


class _Counted:
    """Histograms of the cosines of each seed with all rows seen so far."""

    def __init__(self, seeds: Float[Tensor, "seeds width"]) -> None:
        self._seeds = normalize(seeds, dim=1)
        self._bins = torch.zeros(len(seeds), _BINS, dtype=torch.int32)
        self._sum = 0.0

    def see(self, block: Float[Tensor, "rows width"]) -> None:
        units = normalize(block, dim=1).t()
        for bins, seeds in zip(self._bins.split(BLOCK), self._seeds.split(BLOCK), strict=True):
            cosines = seeds @ units
            self._sum += cosines.sum(dtype=torch.float64).item()
            # a bin excludes its lower edge and includes its upper edge, as a cosine must be above theta
            bin_of = cosines.add_(1).mul_(_BINS / 2).ceil_().sub_(1).clamp_(0, _BINS - 1).long()
            bin_of += torch.arange(len(seeds))[:, None] * _BINS
            bins += torch.bincount(bin_of.flatten(), minlength=bins.numel()).view_as(bins)

    def sizes(self, rows: int) -> Sizes:
        beyond = self._bins.flip(1).cumsum(1, dtype=torch.int32).flip(1)
        others = len(self._bins) * (rows - 1)
        return Sizes(beyond, (self._sum - len(self._bins)) / others, rows, self._seeds.shape[1])
