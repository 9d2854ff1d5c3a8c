"""LK for groups: trains the acceptance of PCG. It has no source; docs/drafts.md says whether it helps."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from pcg.groups.table import GroupBuilder, GroupTable
from pcg.training.losses.alpha import LEAST, coarse_acceptance
from pcg.types import Probs


@dataclass(frozen=True)
class CoarseLK:
    """``mean_i -log sum_k min(P_c(k), Q_c(k))``; PCG keeps the draft's token with that probability (DESIGN section 3).

    Attributes:
        groups: a table over the speech vocabulary, or a builder from which the trainer makes it.
    """

    groups: GroupTable | GroupBuilder

    def __call__(self, draft_log_probs: Probs, target_probs: Probs) -> Float[Tensor, ""]:
        assert isinstance(self.groups, GroupTable)
        return -coarse_acceptance(draft_log_probs, target_probs, self.groups).clamp(min=LEAST).log().mean()
