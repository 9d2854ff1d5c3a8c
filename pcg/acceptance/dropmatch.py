"""DropMatch: the target's output head is evaluated several times, each time with dropout on the hidden state.

Source: DropMatch, arXiv 2603.03333, known through notes on it (the masks, both rules, their defaults). Choices of ours:
a rejected token is replaced by a draw from the target; opinions use the run's temperature, top-k and top-p; if several
tokens have the most votes, each counts as the majority.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit, leading, mixture
from pcg.constraints import Constraint, checked, one_of, up_to
from pcg.sampling import Purpose, Randomness, Sampling
from pcg.types import Verdict


@checked
@dataclass(frozen=True)
class DropMatch:
    """Opinion i is ``p_i = softmax(W (h m_i / (1 - rate)))``, with ``h`` the target's last hidden state.

    - ``naive``: keep ``x`` if it is the best token of any opinion.
    - ``js``: with ``c = softmax(mean of the logits)``, keep ``x`` if ``JS(q, c) <= max_i JS(p_i, c)``, or else if it is
      the best token of most opinions. The first test does not depend on ``x``: where it passes, the law is the draft's.

    Given the masks, ``q`` and ``h`` decide the set ``K`` of tokens that are kept, so the law is ``q(t) 1[t in K] + (1 -
    q(K)) p(t)`` and ``q(K)`` is kept (``law_given``, ``acceptance_given``). The distributions of both models do not
    decide ``K``, so there is no ``law`` and no distortion.

    The rule needs the target's hidden states, so ``over`` binds it to a target and its cache, which then stores them;
    other rules do not pay for that. The masks come from random numbers of the token's position, so an utterance has the
    same masks in any batch.

    Args:
        by: ``js`` or ``naive``.
        masks: opinions for each position; each costs one more pass through the head.
        rate: share of the hidden state that is dropped.
    """

    by: Annotated[str, one_of("js", "naive")] = "js"
    masks: Annotated[int, up_to(1_000)] = 5
    rate: Annotated[float, Constraint(lambda rate: 0 <= rate < 1, "0 or more, below 1")] = 0.3

    def over(self, target: Any, cache: Any, sampling: Sampling) -> _Over:
        """The rule for a batch; ``cache`` is the target's, whose last stored state is the normed input of its head.

        Raises:
            ValueError: there is a repetition penalty or repetition-aware sampling, which opinions do not support.
        """
        if sampling.repetition_penalty != 1:
            raise ValueError("dropmatch does not support decoding.repetition_penalty; set it to 1.0")
        if sampling.ras is not None:
            raise ValueError("dropmatch does not support decoding.ras; set it to null")
        return _Over(self, target.head, cache, sampling)

    def opinions(
        self,
        hidden: Float[Tensor, "batch gamma width"],
        head: Callable[[Tensor], Tensor],
        positions: Int[Tensor, "batch gamma"],
        randomness: Randomness,
    ) -> Float[Tensor, "masks batch gamma vocab"]:
        """The logits under each mask."""
        width = hidden.shape[-1]
        numbers = randomness.draws(positions, Purpose.TRIAL, self.masks * width)
        masks = (numbers >= self.rate).unflatten(-1, (self.masks, width)).movedim(2, 0)
        return head(hidden * masks.to(hidden.dtype) / (1 - self.rate)).float()

    def kept(
        self,
        draft_probs: Probs,
        opinions: Float[Tensor, "masks *batch vocab"],
        sampling: Sampling,
    ) -> Bool[Tensor, "*batch vocab"]:
        """The tokens that are kept, ``K``."""
        best = opinions.argmax(-1).movedim(0, -1)
        votes = torch.zeros_like(draft_probs).scatter_add_(-1, best, torch.ones_like(best, dtype=draft_probs.dtype))
        if self.by == "naive":
            return votes > 0
        centre = sampling.probabilities(opinions.mean(0))
        spread = jensen_shannon(sampling.probabilities(opinions), centre).amax(0)
        close = jensen_shannon(draft_probs, centre) <= spread
        return close.unsqueeze(-1) | (votes == votes.amax(-1, keepdim=True))

    def law_given(
        self,
        draft_probs: Probs,
        target_probs: Probs,
        kept: Bool[Tensor, "*batch vocab"],
    ) -> Probs:
        check_pair(draft_probs, target_probs)
        return mixture(draft_probs, kept, target_probs)

    def acceptance_given(self, draft_probs: Probs, kept: Bool[Tensor, "*batch vocab"]) -> Rates:
        return (draft_probs * kept).sum(-1)


@dataclass(frozen=True)
class _Over:
    """The rule bound to the target's cache, which already holds the block to verify."""

    rule: DropMatch
    head: Callable[[Tensor], Tensor]
    cache: Any
    sampling: Sampling

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions)
        gamma, steps = draft_tokens.shape[1], torch.arange(draft_tokens.shape[1], device=positions.device)
        at = self.cache.lengths.to(positions.device).unsqueeze(1) - (gamma + 1) + steps  # the token before each draft
        rows = torch.arange(len(at), device=at.device).unsqueeze(1)
        hidden = self.cache.hidden[rows, -1, at]
        opinions = self.rule.opinions(hidden, self.head, positions.unsqueeze(1) + steps, randomness)
        kept = self.rule.kept(draft_probs, opinions, self.sampling)
        accepted = leading(kept.gather(2, draft_tokens.unsqueeze(2)).squeeze(2))

        _, target_end = at_end(accepted, draft_probs, target_probs)
        numbers = randomness.block(positions, gamma + 1)
        return emit(accepted, target_end, target_end, numbers)


def jensen_shannon(first: Probs, second: Float[Tensor, "*rest vocab"]) -> Float[Tensor, "*out"]:
    """Jensen-Shannon divergence in nats, 0 (same) to log 2 (disjoint)."""
    entropy = torch.special.entr
    middle = (first + second) / 2
    return (entropy(middle) - (entropy(first) + entropy(second)) / 2).sum(-1)
