"""Exact speculative decoding: what comes out is distributed as if the target had written it alone.

Source: Leviathan, Kalman, Matias 2023, arXiv 2211.17192, Algorithm 1; Chen et al. 2023, arXiv 2302.01318,
Algorithm 2. No departure.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.outcomes import SingleTokens
from pcg.acceptance.steps import at_end, emit_excess, leading, of_drafted
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@dataclass(frozen=True)
class Exact:
    """Keep ``x`` when ``u < p(x)/q(x)``; recover from ``(p - q)+``.

    Law: ``q(t) min(1, p(t)/q(t)) + (1 - sum_x min(p, q)) (p(t) - q(t))+ / sum_x (p - q)+``. As both sum to 1,
    ``sum (p - q)+ = 1 - sum min(p, q)``, so this is ``min(p, q) + (p - q)+ = p(t)``.
    """

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
        accepted = self.keep(draft_tokens, draft_probs, target_probs, numbers[:, :gamma])

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        return emit_excess(accepted, target_end, draft_end, numbers)

    def keep(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        numbers: Float[Tensor, "batch gamma purposes"],
    ) -> Int[Tensor, "batch"]:
        draft, target = of_drafted(draft_probs, draft_tokens), of_drafted(target_probs[:, :-1], draft_tokens)
        return leading(numbers[..., Purpose.ACCEPT] * draft < target)

    @property
    def outcomes(self) -> SingleTokens:
        return SingleTokens()

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return target_probs

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """``sum_x q(x) min(1, p(x)/q(x))``, that is 1 - the total variation distance."""
        check_pair(draft_probs, target_probs)
        return draft_probs.minimum(target_probs).sum(-1)
