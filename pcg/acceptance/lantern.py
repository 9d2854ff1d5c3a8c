"""LANTERN and LANTERN++: a drafted token is tested with the probability of its nearest tokens added to its own.

Source: arXiv 2410.03355; arXiv 2502.06352 (++); as in the authors' code
(``models/ea_model_llamagen.py``), which was read. Departures: a chain, not a tree; nearness is the order of the groups
(``grouping/groups=knn``, by cosine), not the L2 distance of codebook vectors; after a rejection the ``k`` nearest are
zeroed, not ``k + 1``; if nothing is left to draw from, the target is drawn from, not a uniform distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit_excess, leading, of_drafted, ratio
from pcg.constraints import ABOVE_0, checked
from pcg.groups.table import GroupTable, bag
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict

AT_ONCE = 1 << 20  # neighbours that the law processes at a time


@checked
@dataclass(frozen=True)
class Lantern:
    """Keep ``x`` when ``u < (p(x) + s(x))/q(x)``; ``s(x)`` is the sum of ``p`` over its nearest tokens, taken in order
    while it is at most ``delta``, or for a delta above 1 (LANTERN++) at most ``(delta - 1) p(x)``.

    After a rejection of x the next token comes from ``(p - q)+`` with ``q`` set to 0 on x's neighbours, if any of them
    added something; so the residual depends on the rejected token. The mass is added to ``p`` and not to ``q``, so that
    groups do not have the target's law.

    Law: with ``a(x) = min(1, (p + s)/q)``, ``g(x) = q(x) (1 - a(x)) / Z(x)`` and ``Z(x) = sum (p - q)+``, plus, where a
    neighbour was taken, the sum of ``min(p, q)`` over x's neighbours:
    ``q a + (p - q)+ sum_x g(x) + min(p, q)(t) sum of g(x) over the x that have t among their neighbours``.

    Args:
        groups: one group a token, with their order; the neighbours of x are the others of its group.
    """

    BYTES_A_MEMBER: ClassVar[int] = 16  # of a group: both directions of the table, its order, and ``nearest``

    groups: GroupTable
    delta: Annotated[float, ABOVE_0] = 0.1
    nearest: Int[Tensor, "vocab width"] = field(init=False, repr=False, compare=False)  # padded with the token itself

    def __post_init__(self) -> None:
        groups = self.groups
        if groups.ranks is None or not groups.seeded:
            raise ValueError("lantern needs groups with an order of nearness; set "
                             "grouping/groups=knn")  # fmt: skip
        width = max(1, int(groups.sizes.max()) - 1)
        every = torch.arange(groups.vocab_size, dtype=torch.int32, device=groups.members.device)
        nearest = every.unsqueeze(1).repeat(1, width)
        others = groups.ranks > 0
        owners = every.repeat_interleave(groups.sizes)[others].long()
        nearest[owners, groups.ranks[others].long() - 1] = groups.members[others]
        object.__setattr__(self, "nearest", nearest)

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions, self.groups)
        gamma = draft_tokens.shape[1]
        numbers = randomness.block(positions, gamma + 1)
        draft = of_drafted(draft_probs, draft_tokens)
        target, taken = self._raised(draft_tokens, target_probs[:, :gamma])
        accepted = leading(numbers[:, :gamma, Purpose.ACCEPT] * draft < target)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        place = accepted.clamp(max=gamma - 1).unsqueeze(1)
        near = self.nearest[draft_tokens.gather(1, place).squeeze(1)].long()
        left_out = torch.zeros_like(draft_end, dtype=torch.bool).scatter_(1, near, True)
        left_out.scatter_(1, draft_tokens.gather(1, place), False)  # x itself is not zeroed
        draft_end = draft_end.masked_fill(left_out & taken.gather(1, place), 0)
        return emit_excess(accepted, target_end, draft_end, numbers)

    def _raised(
        self, tokens: Int[Tensor, "batch n"], target_probs: Float[Tensor, "batch n vocab"]
    ) -> tuple[Float[Tensor, "batch n"], Bool[Tensor, "batch n"]]:
        """``p(x) + s(x)`` of each token, and whether ``s(x)`` has a neighbour's probability."""
        ids = self.nearest[tokens].long()
        own = target_probs.gather(2, tokens.unsqueeze(2))
        others = ids != tokens.unsqueeze(2)
        sums = (target_probs.gather(2, ids) * others).cumsum(2, dtype=torch.float64)
        within = others & (sums <= (self.delta if self.delta <= 1 else (self.delta - 1) * own))
        taken = (sums * within).amax(2)
        return own.squeeze(2) + taken, taken > 0

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        keep, taken = self._keep(draft_probs, target_probs)
        shared, left = draft_probs.minimum(target_probs), (target_probs - draft_probs).clamp(min=0)
        groups = self.groups
        around = (bag(groups.member_starts, groups.members, shared) - shared).clamp(min=0) * taken
        total = left.sum(-1, keepdim=True) + around
        rate = draft_probs * (1 - keep) / total.clamp(min=torch.finfo(total.dtype).tiny)
        zeroed = rate * taken
        by_neighbours = (bag(groups.holder_starts, groups.holders, zeroed) - zeroed).clamp(min=0)
        return draft_probs * keep + left * rate.sum(-1, keepdim=True) + shared * by_neighbours

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        return (draft_probs * self._keep(draft_probs, target_probs)[0]).sum(-1)

    def _keep(self, draft_probs: Probs, target_probs: Probs) -> tuple[Probs, Bool[Tensor, "*batch vocab"]]:
        """``a(x)`` of every token, and whether ``s(x)`` has a neighbour's probability."""
        check_pair(draft_probs, target_probs, self.groups)
        target = target_probs.reshape(-1, 1, target_probs.shape[-1])
        raised, taken = [], []
        every = torch.arange(target.shape[2], device=target.device)
        for tokens in every.split(max(1, AT_ONCE // (len(target) * self.nearest.shape[1]))):
            sums, added = self._raised(tokens.expand(len(target), -1), target.expand(-1, len(tokens), -1))
            raised.append(sums)
            taken.append(added)
        keep = ratio(draft_probs, torch.cat(raised, 1).view(draft_probs.shape))
        return keep.to(draft_probs.dtype), torch.cat(taken, 1).view(draft_probs.shape)
