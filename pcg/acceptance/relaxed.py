"""Relaxed acceptance: keep what is among the target's top k and not far below its best.

Source: TensorRT-LLM, "DeepSeek R1 MTP Implementation and Optimization" (tech blog 2), section Relaxed Acceptance, read:
of the top N tokens, those with a probability below (top-1 probability - delta) are removed; a drafted token among
the rest is accepted. It uses k 10 and delta .6, in the thinking phase of DeepSeek-R1 only.
Departures: TensorRT-LLM recovers with the most likely token (``recover: argmax``); here a draw from the target is the
default, because greedy speech degenerates. Tokens of probability 0 are never kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit, leading, mixture, of_drafted, truncated
from pcg.acceptance.topk import kth_largest
from pcg.constraints import FROM_0, FROM_1, checked, one_of
from pcg.sampling import Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class Relaxed:
    """Keep ``x`` when it is in the target's top ``k`` and ``p(x) >= max p - delta``; recover from ``p``.

    Law: ``q(t) 1[t a candidate] + (1 - q(candidates)) r(t)`` with ``r`` the target or, for ``recover: argmax``, all
    on its most likely token.
    """

    k: Annotated[int, FROM_1] = 10
    delta: Annotated[float, FROM_0] = 0.6
    recover: Annotated[str, one_of("draw", "argmax")] = "draw"

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
        tested = target_probs[:, :gamma]
        accepted = leading(of_drafted(tested, draft_tokens) >= self._threshold(tested))

        _, target_end = at_end(accepted, draft_probs, target_probs)
        return emit(accepted, self._recovered(target_end), target_end, numbers)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return mixture(draft_probs, self._candidates(target_probs), self._recovered(target_probs))

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """The draft's mass on the candidates."""
        check_pair(draft_probs, target_probs)
        return (draft_probs * self._candidates(target_probs)).sum(-1)

    def truncated(self, target_probs: Probs) -> Probs:
        """The target restricted to the kept tokens, with which 2607.26627 compares this rule's law."""
        return truncated(target_probs, self._candidates(target_probs))

    def _candidates(self, target_probs: Probs) -> Bool[Tensor, "*batch vocab"]:
        return target_probs >= self._threshold(target_probs).unsqueeze(-1)

    def _threshold(self, target_probs: Probs) -> Rates:
        return torch.maximum(kth_largest(target_probs, self.k), target_probs.amax(-1) - self.delta)

    def _recovered(self, target_probs: Probs) -> Probs:
        if self.recover == "draw":
            return target_probs
        return one_hot(target_probs.argmax(-1), target_probs.shape[-1]).to(target_probs.dtype)
