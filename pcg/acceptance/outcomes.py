"""What PCG tests a token as: one of its groups, or with a floor the token itself where the target finds it implausible.

An *outcome* is a group, or a token that stands alone. Token to outcome is a Markov kernel: a token is one of its
groups, each as likely. The kernel may depend on the target's distribution, which draft and target share.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.groups.table import GroupTable


@dataclass(frozen=True)
class Outcomes:
    """Numbered as the groups are; with a floor, then as the tokens.

    Args:
        floor: tokens of ``p(t) < floor max p`` stand alone; None groups all.
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
        draft_probs: Float[Tensor, "batch n vocab"],
        target_probs: Float[Tensor, "batch n vocab"],
        bar: Float[Tensor, "batch #n 1"] | None = None,
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """``Q_c`` and ``P_c`` of each token's outcome, ``groups`` where it is grouped, from its members alone.

        Args:
            bar: what plausible tokens reach, where it is known already.
        """
        members, weights = self.groups.members_of(groups)
        draft, target = draft_probs.gather(2, members), target_probs.gather(2, members)
        if self.floor is None:
            return (draft * weights).sum(2), (target * weights).sum(2)
        bar, token = self.bar(target_probs) if bar is None else bar, tokens.unsqueeze(2)
        weights = weights * (target >= bar)
        own_draft, own_target = draft_probs.gather(2, token), target_probs.gather(2, token)
        alone = own_target < bar
        return (
            torch.where(alone, own_draft, (draft * weights).sum(2, keepdim=True)).squeeze(2),
            torch.where(alone, own_target, (target * weights).sum(2, keepdim=True)).squeeze(2),
        )

    def mass(
        self,
        probs: Float[Tensor, "*batch vocab"],
        target_probs: Float[Tensor, "*#batch vocab"],
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Float[Tensor, "*batch outcomes"]:
        """Each outcome's probability where tokens have ``probs``. Where ``wanted`` is false it is not read."""
        if self.floor is None:
            return self.groups.coarse(probs, wanted)
        grouped = self.plausible(target_probs)
        return torch.cat([self.groups.coarse(probs * grouped, wanted), probs * ~grouped], -1)

    def spread(
        self,
        values: Float[Tensor, "*batch outcomes"],
        target_probs: Float[Tensor, "*#batch vocab"],
        wanted: Bool[Tensor, ""] | None = None,
    ) -> Float[Tensor, "*batch vocab"]:
        """For each token, the expectation of ``values`` over its outcome. ``wanted``: as in ``mass``."""
        if self.floor is None:
            return self.groups.spread(values, wanted)
        in_groups, alone = values.split([len(self.groups), self.groups.vocab_size], -1)
        return torch.where(self.plausible(target_probs), self.groups.spread(in_groups, wanted), alone)

    def plausible(self, target_probs: Float[Tensor, "*batch vocab"]) -> Bool[Tensor, "*batch vocab"]:
        """The tokens that are grouped."""
        return target_probs >= self.bar(target_probs)

    def bar(self, target_probs: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch 1"]:
        """What a token needs to be grouped."""
        return (self.floor or 0.0) * target_probs.amax(-1, keepdim=True)
