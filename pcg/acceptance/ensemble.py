"""Static ensemble verification: exact speculative decoding towards a mixture of target and draft.

Source: DIVERSED, Wang et al. 2026, arXiv 2604.07622 (the static ensemble), as implemented in transformers'
``_speculative_sampling`` with ``assistant_ensemble_weight``, which was read; the paper's equations were not.
No departure: (v - q)+ = w (p - q)+, so the residual is that of exact speculative decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit_excess, leading, of_drafted
from pcg.constraints import SHARE, checked
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Ensemble:
    """Keep ``x`` when ``u < 1 - w + w p(x)/q(x)``; recover from ``(p - q)+``. ``w`` is the target's share.

    Law: kept mass ``min(q, v)`` with ``v = w p + (1 - w) q``; rejected mass ``sum (q - v)+ = w sum (q - p)+``, which
    equals ``w sum (p - q)+``; so the law is ``min(q, v) + w (p - q)+ = min(q, v) + (v - q)+ = v``.
    """

    w: Annotated[float, SHARE] = 0.5

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions)
        gamma = draft_tokens.shape[1]
        numbers = randomness.block(positions, gamma + 1)
        draft, target = of_drafted(draft_probs, draft_tokens), of_drafted(target_probs[:, :gamma], draft_tokens)
        accepted = leading((numbers[:, :gamma, Purpose.ACCEPT] - (1 - self.w)) * draft < self.w * target)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        return emit_excess(accepted, target_end, draft_end, numbers)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return self.w * target_probs + (1 - self.w) * draft_probs

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """``1 - w TV(p, q)``."""
        check_pair(draft_probs, target_probs)
        return 1 - self.w + self.w * draft_probs.minimum(target_probs).sum(-1)
