"""Rules that test token by token, from the one that keeps most to exact, any of which may test a place.

Ours. Which one tests a place may depend on both models' distributions there and on all that was said before, on
nothing that is drawn for it: then its token has that rule's law, given the choice (docs/control.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.acceptance.steps import leading
from pcg.groups.table import GroupTable
from pcg.sampling import Randomness
from pcg.types import Verdict


@dataclass(frozen=True)
class Ladder:
    """``rules``, widest first; exact is the level after the last of them."""

    rules: Sequence[Any]

    def __post_init__(self) -> None:
        for rule in self.rules:
            if not isinstance(rule, PCG):
                raise ValueError(
                    f"a budget chooses the theta of pcg, which tests token by token, not of {type(rule).__name__}"
                )

    @property
    def levels(self) -> int:
        """The level of exact."""
        return len(self.rules)

    @property
    def groups(self) -> GroupTable:
        """Those of the widest rule."""
        return self.rules[0].groups

    def rule(self, level: int) -> PCG | Exact:
        return Exact() if level == len(self.rules) else self.rules[level]

    def at(self, levels: Int[Tensor, "batch gamma"]) -> Chosen:
        return Chosen(self, levels)

    def offer(
        self, level: int, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """What the level is expected to keep beyond exact, and its law's total variation from the target.

        The gain is never above the distance: a law that kept more would not be that near.
        """
        law, kept = self.rules[level].law_and_acceptance(draft_probs, target_probs)
        return kept - draft_probs.minimum(target_probs).sum(-1), (law - target_probs).abs().sum(-1) / 2

    def law(
        self,
        draft_probs: Float[Tensor, "batch vocab"],
        target_probs: Float[Tensor, "batch vocab"],
        levels: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch vocab"]:
        """The law of each place's token, given its level."""
        law = target_probs.clone()
        for level in set(levels.tolist()) - {self.levels}:
            mine = levels == level
            law[mine] = self.rules[level].law(draft_probs[mine], target_probs[mine])
        return law


@dataclass(frozen=True)
class Chosen:
    """The ladder with a level for each place of a block: each place is a block of one for its rule.

    These rules read numbers by position alone, so this is what the rule says of the whole block where there is one
    level.
    """

    ladder: Ladder
    levels: Int[Tensor, "batch gamma"]

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        gamma, levels = draft_tokens.shape[1], self.levels[:, : draft_tokens.shape[1]]
        if bool((levels == levels[:1, :1]).all()):
            whole = self.ladder.rule(int(levels[0, 0]))
            return whole.verify(draft_tokens, draft_probs, target_probs, positions, randomness)
        kept, tokens = torch.zeros_like(levels, dtype=torch.bool), torch.zeros_like(draft_tokens)
        for level in sorted(set(levels.flatten().tolist())):
            row, place = (levels == level).nonzero(as_tuple=True)
            found = self.ladder.rule(level).verify(
                draft_tokens[row, place, None],
                draft_probs[row, place, None],
                torch.stack([target_probs[row, place], target_probs[row, place + 1]], 1),
                positions[row] + place,
                Randomness(randomness.seed, randomness.keys[row]),  # a copy of numbers at hand would cost more
            )
            kept[row, place], tokens[row, place] = found.accepted > 0, found.token
        accepted = leading(kept)
        # the place that was rejected holds its recovered token, the last place of a whole block the bonus
        return Verdict(accepted, tokens.gather(1, accepted.clamp(max=gamma - 1).unsqueeze(1)).squeeze(1))
