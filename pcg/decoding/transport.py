"""The earth mover's distance between a rule's law and the target.

``W_1`` is the least cost of turning one distribution into the other, where moving mass m from token s to token t costs
m times the distance of s and t (DESIGN section 3, *Sound distance*; docs/sound.md). The distance of two tokens is that
of their vectors, which hold their sound or are their embeddings. With all distances 1, ``W_1`` is total variation.

Since distances obey the triangle inequality, mass that both distributions hold stays where it is: only what the law has
above the target is moved, to where it has less. Few tokens hold nearly all of that mass. The problem of these tokens is
solved exactly, by the network simplex of POT (Flamary et al., JMLR 2021; Bonneel et al. 2011); the other tokens of each
side are merged into one that costs nothing to reach. So the result is a lower bound of ``W_1``, and a second number
says how much larger ``W_1`` may be.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_NOISE = 1e-6  # total variation that float32 makes of two equal distributions


@dataclass(frozen=True)
class EarthMover:
    """Measures the distance for tokens that have vectors.

    Attributes:
        vectors: one row a token.
        end: end-of-speech, whose distance from every other token is ``farthest``.
        farthest: the largest distance of any two tokens.
        unit: whether rows are first brought to length 1; a distance then is ``sqrt(2 - 2 cosine)``.
        kept: the tokens of each side that are not merged hold this share of the moved mass,
        most: or are this many, whichever is reached first.
    """

    vectors: Float[Tensor, "tokens dims"] = field(repr=False)
    end: int
    farthest: float
    unit: bool = False
    kept: float = 0.99
    most: int = 256

    def __call__(
        self, law: Float[Tensor, "positions vocab"], target: Float[Tensor, "positions vocab"]
    ) -> Float[Tensor, "positions 2"]:
        """For each position the lower bound and how much larger the distance may be, in the unit of the vectors."""
        change = law - target
        sides = torch.stack([change, -change]).clamp_(min=0)
        totals = sides.sum(-1, dtype=torch.float64).cpu()
        masses, ids = sides.topk(min(self.most, law.shape[-1]), -1)
        masses, ids = masses.double().cpu(), ids.cpu()
        distances = torch.zeros(len(law), 2, dtype=torch.float64)
        for position in (totals.amin(0) > _NOISE).nonzero()[:, 0].tolist():
            distances[position] = self._one(masses[:, position], ids[:, position], totals[:, position])
        return distances

    def _one(
        self, masses: Float[Tensor, "2 most"], ids: Int[Tensor, "2 most"], totals: Float[Tensor, "2"]
    ) -> Float[Tensor, "2"]:
        from ot import emd2  # takes seconds to import

        shares = masses / totals[:, None]
        counts = ((shares.cumsum(1) < self.kept).sum(1) + 1).clamp(max=shares.shape[1])
        (over, under), (sources, sinks) = (
            [row[:count] for row, count in zip(rows, counts.tolist(), strict=True)] for rows in (shares, ids)
        )
        costs = np.zeros((len(sources) + 1, len(sinks) + 1))
        costs[:-1, :-1] = self.distances(sources, sinks)
        (over, over_rest), (under, under_rest) = _with_rest(over), _with_rest(under)
        moved = totals.mean().item()
        left = (over_rest + under_rest) * self.farthest
        cost = emd2(over, under, costs, numItermax=1_000_000, center_dual=False, check_marginals=False)
        return torch.tensor([cost, left]) * moved

    def distances(self, left: Int[Tensor, "left"], right: Int[Tensor, "right"]) -> np.ndarray:
        """Distances of each token of ``left`` from each token of ``right``."""
        ends = (left == self.end)[:, None] ^ (right == self.end)[None]
        x, y = self._rows(left), self._rows(right)
        squared = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * x @ y.T
        apart = np.sqrt(squared.clip(min=0))
        apart[ends.numpy()] = self.farthest
        return apart

    def _rows(self, ids: Int[Tensor, "ids"]) -> np.ndarray:
        """Vectors of the ids. Where end-of-speech has none, another row stands in, whose distances are not read."""
        rows = self.vectors[ids.clamp(max=len(self.vectors) - 1).to(self.vectors.device)].double().cpu()
        return (torch.nn.functional.normalize(rows) if self.unit else rows).numpy()


def _with_rest(shares: Float[Tensor, "kept"]) -> tuple[np.ndarray, float]:
    """The shares followed by the share of all other tokens, so that they sum to 1; and that last share."""
    rest = max(1.0 - shares.sum().item(), 0.0)
    whole = np.append(shares.numpy(), rest)
    return whole / whole.sum(), rest


@dataclass(frozen=True)
class Movers:
    """Earth mover's distances at a sample of the tested positions.

    Attributes:
        by_name: the figure's name -> what measures it.
        every: the sample is every n-th position of an utterance.
    """

    by_name: Mapping[str, EarthMover]
    every: int = 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ``sums``."""
        return ("moved_positions", *(name for key in self.by_name for name in (key, f"{key}_rest")))

    def sums(
        self, law: Float[Tensor, "positions vocab"], target: Float[Tensor, "positions vocab"]
    ) -> Float[Tensor, "positions columns"]:
        """For each position the number 1, then each distance and how much larger it may be."""
        distances = [mover(law, target) for mover in self.by_name.values()]
        return torch.cat([torch.ones(len(law), 1, dtype=torch.float64), *distances], 1)


def farthest(vectors: Float[Tensor, "tokens dims"], block: int = 1024) -> float:
    """The largest distance of two rows, found without comparing all pairs.

    Rows are sorted by their distance from the mean, largest first. Two rows are no farther apart than the sum of their
    distances from the mean, so the search ends where no remaining pair can exceed the best one.
    """
    rows = vectors.float() - vectors.float().mean(0)
    lengths, order = rows.norm(dim=1).sort(descending=True)
    rows, best = rows[order], 0.0
    for start in range(0, len(rows), block):
        others = int((lengths + lengths[start] > best).sum())
        if others <= start:
            break
        best = max(best, torch.cdist(rows[start : start + block], rows[start:others]).max().item())
    return best


def installed() -> bool:
    """Whether the solver (POT) is installed."""
    return importlib.util.find_spec("ot") is not None
