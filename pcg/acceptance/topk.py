"""Top-k verification: keep what is among the target's k most likely tokens.

Source: LLaSA+, Tian et al. 2025, arXiv 2508.06262, as in the authors' ``inference_llasa_open.py`` (k 50, a rejected
token is drawn again from the backbone's top k), which was read; the paper's equations were not. Departures: LLaSA+
drafts with two heads on the backbone. It ranks raw logits; here the sampled distribution is ranked, which has the same
order unless there is a repetition penalty. A token of probability 0 is never kept, so that temperature 0 stays greedy;
ties at the k-th place are all kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit, leading, mixture, of_drafted, truncated
from pcg.constraints import FROM_1, checked
from pcg.sampling import Randomness
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class TopK:
    """Keep ``x`` when it is in the target's top ``k``; recover by a draw from ``p`` within its top ``k``.

    Law: ``q(t) 1[t in top] + (1 - q(top)) p(t) 1[t in top] / p(top)``.
    """

    k: Annotated[int, FROM_1] = 50

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
        accepted = leading(of_drafted(tested, draft_tokens) >= kth_largest(tested, self.k))

        _, target_end = at_end(accepted, draft_probs, target_probs)
        return emit(accepted, target_end * in_top(target_end, self.k), target_end, numbers)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        top = in_top(target_probs, self.k)
        return mixture(draft_probs, top, truncated(target_probs, top))

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """The draft's mass on the target's top k."""
        check_pair(draft_probs, target_probs)
        return (draft_probs * in_top(target_probs, self.k)).sum(-1)

    def truncated(self, target_probs: Probs) -> Probs:
        """The target restricted to the kept tokens, with which 2607.26627 compares this rule's law."""
        return truncated(target_probs, in_top(target_probs, self.k))


def kth_largest(probs: Probs, k: int) -> Rates:
    """The k-th largest probability, or the smallest positive number if fewer than k are above 0."""
    smallest = torch.finfo(probs.dtype).smallest_normal
    return probs.topk(min(k, probs.shape[-1]), -1).values[..., -1].clamp(min=smallest)


def in_top(probs: Probs, k: int) -> Bool[Tensor, "*batch vocab"]:
    return probs >= kth_largest(probs, k).unsqueeze(-1)
