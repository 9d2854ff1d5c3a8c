"""FLy: where the target is unsure, a rejected token is kept if exact would keep the drafts that follow it.

Source: FLy, arXiv 2511.22972, whose paper was not read, as in vLLM's ``rejection_sample_method="fly"``, which was
(``vllm/v1/spec_decode/fly.py``, the random path, and the documentation): same conditions, same defaults. Departures:
vLLM's greedy path computes the entropy before temperature; here it is 0 at temperature 0, so greedy decoding
stays greedy. vLLM refuses blocks shorter than a window; here they are tested exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit_excess, leading, mixture, of_drafted, ratio, residual
from pcg.constraints import FROM_0, FROM_1, checked
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Fly:
    """Keep ``x`` when ``u < p(x)/q(x)``, or else when ``p(x) > 0``, the entropy of the target's ``top`` largest
    probabilities is at least ``threshold`` nats, and exact would keep each of the next ``window`` drafts.

    Law: with ``A(x)`` the probability that exact keeps the next ``window`` drafts after ``x``, a drafted ``t`` is kept
    with probability ``a(t) = r + (1 - r) A(t)`` if the entropy is high enough, else with ``r = min(1, p(t)/q(t))``. So
    the token has law ``q(t) a(t) + (1 - sum q a) (p - q)+ / sum (p - q)+``. ``A`` depends on later positions, so there
    is no ``law``, no distortion and no sampling from the law; ``law_given`` takes ``A``. The last ``window`` drafts of
    a block are tested exactly. The token after a rejected one that was kept has law ``min(p, q)``, normalised, not the
    target's.

    As the test reads drafts beyond a rejection, it uses random numbers of the round, not of the position
    (docs/rules.md, block).

    Args:
        threshold: in nats; the sum of ``-p log p`` over the ``top`` largest, not normalised.
        window: following drafts that exact must keep; None is ``min(6, gamma - 1)``, at least 1.
        top: number of probabilities in the entropy.
    """

    threshold: Annotated[float, FROM_0] = 0.3
    window: Annotated[int, FROM_1] | None = None
    top: Annotated[int, FROM_1] = 3

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
        window = self.window or max(1, min(6, gamma - 1))
        draft, target = of_drafted(draft_probs, draft_tokens), of_drafted(target_probs[:, :gamma], draft_tokens)
        kept = randomness.draws(positions, Purpose.ACCEPT, gamma) * draft < target
        resumed = F.pad(kept, (0, window)).unfold(1, window, 1)[:, 1:].all(2)
        accepted = leading(kept | (resumed & self._unsure(target_probs[:, :gamma]) & (target > 0)))

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        numbers = randomness.block(positions, gamma + 1)
        return emit_excess(accepted, target_end, draft_end, numbers)

    def law_given(
        self,
        draft_probs: Probs,
        target_probs: Probs,
        resumed: Float[Tensor, "*batch #vocab"],
    ) -> Probs:
        """The law of a token that is followed by a whole window.

        Args:
            resumed: ``A``, the probability that exact keeps the window after each token.
        """
        return mixture(draft_probs, self._keep(draft_probs, target_probs, resumed), residual(draft_probs, target_probs))

    def acceptance_given(
        self,
        draft_probs: Probs,
        target_probs: Probs,
        resumed: Float[Tensor, "*batch #vocab"],
    ) -> Rates:
        """The probability that such a token is a kept draft."""
        return (draft_probs * self._keep(draft_probs, target_probs, resumed)).sum(-1)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """For a block of one token, the same as exact's; longer blocks keep at least as large a share."""
        check_pair(draft_probs, target_probs)
        return draft_probs.minimum(target_probs).sum(-1)

    def _keep(
        self,
        draft_probs: Probs,
        target_probs: Probs,
        resumed: Float[Tensor, "*batch #vocab"],
    ) -> Probs:
        check_pair(draft_probs, target_probs)
        by_exact = ratio(draft_probs, target_probs)
        return by_exact + (1 - by_exact) * resumed * (self._unsure(target_probs).unsqueeze(-1) & (target_probs > 0))

    def _unsure(self, target_probs: Probs) -> Bool[Tensor, "*batch"]:
        largest = target_probs.topk(min(self.top, target_probs.shape[-1]), -1).values
        return torch.special.entr(largest).sum(-1) >= self.threshold
