"""SSD: exact speculative decoding with a tolerance added to the acceptance probability.

Source: Lin et al. 2025, arXiv 2505.15380, Eq. 5 and 6 and Algorithm 1 (beta .4 with gamma 3 in its experiments).
No departure; note that the paper writes p for the draft and q for the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit_excess, leading, mixture, of_drafted, ratio, residual
from pcg.constraints import FROM_0, checked
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class SSD:
    """Keep ``x`` when ``u < min(1, p(x)/q(x)) + beta``; recover from ``(p - q)+``.

    Law: with ``a(x) = min(1, min(1, p/q) + beta)`` the kept mass is ``q(t) a(t)``, and the rejected mass, 1 - sum q a,
    goes to the residual: ``q a + (1 - sum q a) (p - q)+ / sum (p - q)+``. The residual is that of ``beta = 0``, so the
    law is the target's only for beta 0. ``beta >= 1`` accepts everything.
    """

    beta: Annotated[float, FROM_0] = 0.4

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
        # as u < 1, the inner min(1, .) has no effect
        accepted = leading((numbers[:, :gamma, Purpose.ACCEPT] - self.beta) * draft < target)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        return emit_excess(accepted, target_end, draft_end, numbers)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return mixture(draft_probs, self._keep(draft_probs, target_probs), residual(draft_probs, target_probs))

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        check_pair(draft_probs, target_probs)
        return (draft_probs * self._keep(draft_probs, target_probs)).sum(-1)

    def _keep(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        return (ratio(draft_probs, target_probs) + self.beta).clamp(max=1)
