"""Outcomes, which PCG tests in place of tokens: a group, or with a floor also a token implausible to the target.

To exact each token is an outcome of its own (``SingleTokens``).
Token to outcome is a Markov kernel: a plausible token becomes one of its groups, each equally likely; an implausible
one stays itself. The kernel depends on the target's distribution alone, and is the same for draft and target.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs
from pcg.acceptance.steps import bar
from pcg.groups.table import GroupTable


class SingleTokens:
    """The outcomes of exact, in the form of ``pcg.decoding.tree.OutcomeMap``."""

    def draw(
        self,
        tokens: Int[Tensor, "batch n"],
        target_probs: Float[Tensor, "batch vocab"],
        uniform: Float[Tensor, "batch n"],
    ) -> Int[Tensor, "batch n"]:
        return tokens

    def mass(self, probs: Probs, target_probs: Float[Tensor, "*#batch vocab"]) -> Probs:
        return probs

    def spread(self, values: Probs, target_probs: Probs) -> Probs:
        return values


@dataclass(frozen=True)
class Outcomes:
    """Numbered as the groups are; with a floor, then as the tokens.

    Args:
        floor: tokens of ``p(t) < floor max p`` are implausible; None: no token is.
    """

    groups: GroupTable
    floor: float | None = None

    def draw(
        self,
        tokens: Int[Tensor, "batch n"],
        target_probs: Float[Tensor, "batch vocab"],
        uniform: Float[Tensor, "batch n"],
    ) -> Int[Tensor, "batch n"]:
        """An outcome of each token."""
        groups = self.groups.draw_group(tokens, uniform)
        if self.floor is None:
            return groups
        return torch.where(self.plausible(target_probs).gather(1, tokens), groups, len(self.groups) + tokens)

    def masses_of(
        self,
        tokens: Int[Tensor, "batch n"],
        groups: Int[Tensor, "batch n"],
        draft_probs: Float[Tensor, "batch #n vocab"],
        target_probs: Float[Tensor, "batch #n vocab"],
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """``Q_c`` and ``P_c`` of each token's outcome (``groups`` if it is plausible), from its members alone."""
        members, weights = self.groups.members_of(groups)
        draft_of_each, target_of_each = (probs.expand(-1, tokens.shape[1], -1) for probs in (draft_probs, target_probs))
        draft, target = draft_of_each.gather(2, members), target_of_each.gather(2, members)
        if self.floor is None:
            return (draft * weights).sum(2), (target * weights).sum(2)
        least, token = self.bar(target_probs), tokens.unsqueeze(2)
        weights = weights * (target >= least)
        own_draft, own_target = draft_of_each.gather(2, token), target_of_each.gather(2, token)
        alone = own_target < least
        return (
            torch.where(alone, own_draft, (draft * weights).sum(2, keepdim=True)).squeeze(2),
            torch.where(alone, own_target, (target * weights).sum(2, keepdim=True)).squeeze(2),
        )

    def mass(
        self,
        probs: Probs,
        target_probs: Float[Tensor, "*#batch vocab"],
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Float[Tensor, "*batch outcomes"]:
        """The probability of each outcome for tokens of ``probs``; if ``wanted`` is false, it is not needed."""
        if self.floor is None:
            return self.groups.coarse(probs, wanted)
        grouped = self.plausible(target_probs)
        return torch.cat([self.groups.coarse(probs * grouped, wanted), probs * ~grouped], -1)

    def spread(
        self,
        values: Float[Tensor, "*batch outcomes"],
        target_probs: Float[Tensor, "*#batch vocab"],
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Probs:
        """For each token, the expectation of ``values`` over its outcome. ``wanted``: as for ``mass``."""
        if self.floor is None:
            return self.groups.spread(values, wanted)
        in_groups, alone = values.split([len(self.groups), self.groups.vocab_size], -1)
        return torch.where(self.plausible(target_probs), self.groups.spread(in_groups, wanted), alone)

    def plausible(self, target_probs: Probs) -> Bool[Tensor, "*batch vocab"]:
        """Whether each token is plausible, and so grouped."""
        return target_probs >= self.bar(target_probs)

    def bar(self, target_probs: Probs) -> Float[Tensor, "*batch 1"]:
        """The probability that plausible tokens reach; 0 without a floor."""
        return bar(target_probs, self.floor or 0.0)
