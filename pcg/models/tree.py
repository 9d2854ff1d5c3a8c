"""The shape of a pass over several continuations at once (``pcg.decoding.tree``)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Tree:
    """The shape of a pass over tokens that are not one sequence. Every token sees all that its row held before.

    Attributes:
        depths: how far behind the row's last token each stands, from 0: what its position is.
        sees: which tokens of the pass each attends to, itself included.
    """

    depths: Int[Tensor, "new"]
    sees: Bool[Tensor, "new new"]
