"""GSD, grouped speculative decoding: tests the cluster that is formed around the drafted token at each position.

Source: arXiv 2508.07747, as in the authors' code (``scheduler/jacobi_iteration_lumina_mgpt.py``), which was read. The
cluster of x: the tokens within 7 places of it in the target's ranking (7 below, 6 above), whose probability is within
.15 of its own and whose embedding is near. Departures: the draft may be any model, not the target's earlier Jacobi
iterate; near is what the groups define, not a squared distance below .5; a window at the edge of the ranking is cut,
not dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit_excess, leading, mixture, ratio, residual
from pcg.constraints import FROM_1, SHARE_ABOVE_0, checked
from pcg.groups.alike import Alike
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict

AT_ONCE = 1 << 20  # members of clusters that the law processes at a time


@checked
@dataclass(frozen=True)
class GSD:
    """Keep ``x`` when ``u < P(C)/Q(C)``, the masses of its cluster ``C(x)``; recover from ``(p - q)+``.

    ``C(x)``: x, and every c alike to it (``pcg.groups.alike``) at most ``ranks`` places below and ``ranks - 1`` above
    it in the target's ranking, with ``|p(c) - p(x)| < band``. Clusters are no partition, so neither groups nor tokens
    have the target's law, and x may be kept less often than by exact.

    Law: with ``a(x) = min(1, P(C)/Q(C))``: ``q a + (1 - sum q a) (p - q)+``, normalised.
    """

    BYTES_A_MEMBER: ClassVar[int] = 8  # of a group: its neighbours, beside the table

    groups: GroupTable
    ranks: Annotated[int, FROM_1] = 7
    band: Annotated[float, SHARE_ABOVE_0] = 0.15
    alike: Alike = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "alike", Alike.of(self.groups))

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
        tested = target_probs[:, :gamma]
        draft, target = self._masses(draft_tokens, draft_probs, tested, ranking(tested))
        accepted = leading(numbers[:, :gamma, Purpose.ACCEPT] * draft < target)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        return emit_excess(accepted, target_end, draft_end, numbers)

    def _masses(
        self,
        tokens: Int[Tensor, "batch n"],
        draft_probs: Float[Tensor, "batch n vocab"],
        target_probs: Float[Tensor, "batch n vocab"],
        rank: Int[Tensor, "batch n vocab"],
    ) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        """``Q(C)`` and ``P(C)`` of each token under its own distributions."""
        own = tokens.unsqueeze(2)
        ids = self.alike.near.of(tokens)
        draft, target = draft_probs.gather(2, ids), target_probs.gather(2, ids)
        own_draft, own_target = draft_probs.gather(2, own), target_probs.gather(2, own)
        above = rank.gather(2, ids) - rank.gather(2, own)
        inside = (above >= -self.ranks) & (above < self.ranks) & ((target - own_target).abs() < self.band)
        inside &= ids != own  # missing members are padded with the token itself
        return (
            (own_draft.squeeze(2) + (draft * inside).sum(2, dtype=torch.float64)),
            (own_target.squeeze(2) + (target * inside).sum(2, dtype=torch.float64)),
        )

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        keep = self._keep(draft_probs, target_probs)
        return mixture(draft_probs, keep, residual(draft_probs, target_probs))

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        return (draft_probs * self._keep(draft_probs, target_probs)).sum(-1)

    def _keep(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        """``a(x)`` for every token that the draft may propose."""
        check_pair(draft_probs, target_probs, self.groups)
        draft, target = (probs.reshape(-1, 1, probs.shape[-1]) for probs in (draft_probs, target_probs))
        rank = ranking(target)
        every, keep = torch.arange(draft.shape[2], device=draft.device), []
        for tokens in every.split(max(1, AT_ONCE // (len(draft) * self.alike.near.widest))):
            both = (values.expand(-1, len(tokens), -1) for values in (draft, target, rank))
            draft_mass, target_mass = self._masses(tokens.expand(len(draft), -1), *both)
            keep.append(ratio(draft_mass, target_mass))
        return torch.cat(keep, 1).to(draft_probs.dtype).view(draft_probs.shape)


def ranking(probs: Probs) -> Int[Tensor, "*batch vocab"]:
    """The number of tokens ranked below each one; of equal tokens the earlier is below."""
    order = probs.sort(dim=-1, stable=True).indices
    ranks = torch.arange(probs.shape[-1], device=probs.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, ranks)
