"""Finite scalar quantisation (Mentzer et al., arXiv 2309.15505), the quantiser of X-codec2."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class FSQ(nn.Module):
    """Rounds each dimension to one of its levels; a token is the mixed-radix number of the level digits.

    Two departures from the paper: the bound is the normal distribution function instead of tanh, so that all levels are
    equally likely for a latent of unit variance; and the grid is symmetric around 0 for any number of levels.

    Args:
        levels: levels of each dimension; the first is the least significant digit.
    """

    levels: Tensor
    radix: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("radix", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)
        self.size = int(torch.tensor(levels).prod())

    def forward(self, latent: Float[Tensor, "... dims"]) -> tuple[Float[Tensor, "... dims"], Int[Tensor, "..."]]:
        """The grid values in [-1, 1], through which gradients pass unchanged, and their tokens."""
        bounded = torch.erf(latent.float() * 0.5**0.5) * self.levels / 2
        digits = self._digits(bounded)
        # straight through: the value is the grid point, the gradient that of the bounded latent
        values = bounded + (self._centre(digits) - bounded).detach()
        return values / (self.levels - 1) * 2, (digits * self.radix).sum(-1)

    def values(self, tokens: Int[Tensor, "..."]) -> Float[Tensor, "... dims"]:
        """The grid point in [-1, 1] of each token."""
        digits = tokens.unsqueeze(-1) // self.radix % self.levels
        return self._centre(digits) / (self.levels - 1) * 2

    def _digits(self, bounded: Float[Tensor, "... dims"]) -> Int[Tensor, "... dims"]:
        return torch.minimum((bounded + self.levels / 2).floor().long().clamp_min(0), self.levels - 1)

    def _centre(self, digits: Int[Tensor, "... dims"]) -> Float[Tensor, "... dims"]:
        return digits - (self.levels - 1) / 2


def perplexity(histogram: Int[Tensor, "codes"]) -> Float[Tensor, ""]:
    """How many codes are in use, as if all were used alike: the exponential of the histogram's entropy."""
    return torch.special.entr(histogram / histogram.sum()).sum().exp()
