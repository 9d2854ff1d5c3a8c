"""Blocks of the same length always, tested by the run's own rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from pcg.interfaces import Controller
from pcg.sampling import Randomness
from pcg.types import Verdict


@dataclass(frozen=True)
class Fixed:
    """gamma tokens a round, tested by the run's rule."""

    def over(self, rule: Any, rows: int) -> Controller:
        return _Fixed(rule)


@dataclass(frozen=True)
class _Fixed:
    rule: Any  # what verifies: of a rule that reads states, nothing more

    def goes_on(self, draft_probs: Float[Tensor, "batch vocab"]) -> bool:
        return True

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        return self.rule.verify(draft_tokens, draft_probs, target_probs, positions, randomness)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """It knows of no rows."""
