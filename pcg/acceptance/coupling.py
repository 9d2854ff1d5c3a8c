"""Coupling: keeps a drafted token if it can be paired with one that the target would have said and that is alike.

Ours (DESIGN section 3; docs/coupling.md has the theorem, its proof and what came before). Exact speculative decoding is
the maximal coupling of draft and target for *equal* tokens (Strassen 1965 for any relation; SpecTr 2310.15141 for the
view of speculative decoding as optimal transport). Here tokens need only be alike, by ``pcg.groups.alike``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from pcg.acceptance import thinning
from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, bar, leading, of_drafted
from pcg.constraints import SHARE_ABOVE_0, checked
from pcg.groups.alike import Alike, Neighbours
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw_among, draw_several, may_look, total_among
from pcg.types import Verdict

AT_ONCE = 1 << 22  # pairs of alike tokens, times rows, that a sum over all pairs goes through at a time: 16 MB
MANY = 1 << 24  # of these, from which on the host rather waits for a GPU than has it make a sum for nothing


@checked
@dataclass(frozen=True)
class Coupling:
    """Keep ``x`` when exact keeps it; else when a token ``y`` alike to it, that the draft gives too little, takes it.

    With ``over = (q - p)+``, ``under = (p - q)+``, ``U(x)`` the sum of ``under`` over ``N(x)`` and ``O(y)`` the sum of
    ``over`` over ``S(y)``, the flow between alike tokens is ``flow(x, y) = over(x) under(y) / max(O(y), U(x))``. Over
    ``y`` it sums to at most ``over(x) U(x)/U(x)``, over ``x`` to at most ``under(y) O(y)/O(y)``, whatever the table.

    Test: ``u q(x) < p(x)`` as exact. Else ``v = (u q(x) - p(x)) / over(x)`` is uniform again. ``x`` asks one ``y`` of
    ``N(x)``, drawn from ``under``, and is kept when ``v < U(x)/O(y)``. That is ``(x, y)`` with probability
    ``over(x) under(y)/U(x) min(1, U(x)/O(y)) = flow(x, y)``, and costs the members of two groups.

    Residual: ``under(y) - sum_x flow(x, y)``. Thinning proposes ``y`` from ``under``, has it ask one ``x`` of ``S(y)``,
    drawn from ``over``, and drops it when the two are a pair, with ``min(1, O(y)/U(x))``: ``flow`` once more.

    Law: ``min(p, q) + sum_y flow(., y) + under - sum_x flow(x, .)``. Expected acceptance: ``sum min(p, q) + sum flow``.
    The law's total variation from ``p`` is the sum of the flow, ``alpha - alpha_exact``, the least that any rule with
    this alpha can have; and it can be paired with ``p`` so that paired tokens are equal or alike.

    With a ``floor``, tokens of ``p(x) < floor max p`` are kept as exact keeps them and not paired: their ``over`` is 0.
    All of the above holds, since it holds for any ``over`` of at most ``(q - p)+``.

    Args:
        groups: whose members are alike.
        floor: share of the target's largest probability, above 0, from which on a token may be paired; None: any may.
    """

    BYTES_A_MEMBER: ClassVar[int] = 8  # of a group: whom it is alike to, beside itself

    groups: GroupTable
    floor: Annotated[float, SHARE_ABOVE_0] | None = None
    alike: Alike = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "alike", Alike.of(self.groups))

    def _offered(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        """The draft with what it gives a token below the floor cut to what the target gives it: ``over`` is 0 there."""
        if self.floor is None:
            return draft_probs
        return torch.where(target_probs < bar(target_probs, self.floor), draft_probs.minimum(target_probs), draft_probs)

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
        accepted = leading(self._kept(draft_tokens, draft_probs, target_probs[:, :gamma], numbers[:, :gamma]))

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        residual = PairResidual(self.alike, self._offered(draft_end, target_end), target_end)
        return thinning.emit(accepted, residual, target_end, positions, numbers, randomness)

    def _kept(
        self,
        tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma vocab"],
        numbers: Float[Tensor, "batch gamma purposes"],
    ) -> Bool[Tensor, "batch gamma"]:
        """Which tokens pass, those before a rejection or not. Groups are looked at where exact rejects one."""
        draft, target = of_drafted(draft_probs, tokens), of_drafted(target_probs, tokens)
        beyond = numbers[..., Purpose.ACCEPT] * draft - target
        exact = beyond < 0
        if may_look(exact) and all(map(all, exact.tolist())):
            return exact
        near, back, offered = self.alike.near, self.alike.back, self._offered(draft_probs, target_probs)
        own = draft if self.floor is None else of_drafted(offered, tokens)
        around, theirs = ask(tokens, near, back, target_probs, offered, numbers[..., Purpose.GROUP])
        return exact | (beyond * theirs < (own - target) * around)

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs, self.groups)
        over, under = over_and_under(self._offered(draft_probs, target_probs), target_probs)
        kept = over * paired(over, under, self.alike)
        taken = under * paired(under, over, self.alike.reversed)
        return draft_probs.minimum(target_probs) + kept + (under - taken).clamp(min=0)

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """``sum min(p, q) + sum flow``, never below exact's nor above the maximal flow along alike pairs."""
        check_pair(draft_probs, target_probs, self.groups)
        over, under = over_and_under(self._offered(draft_probs, target_probs), target_probs)
        return (draft_probs.minimum(target_probs) + over * paired(over, under, self.alike)).sum(-1)


@dataclass(frozen=True)
class PairResidual:
    """``under(y) - sum_x flow(x, y)``, in the form of ``thinning.Residual``."""

    alike: Alike
    draft: Float[Tensor, "batch vocab"]
    target: Float[Tensor, "batch vocab"]

    def keep(self, rows: Int[Tensor, "kept"]) -> PairResidual:
        return replace(self, draft=self.draft[rows], target=self.target[rows])

    def propose(self, numbers: Float[Tensor, "batch trials 3"]) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
        trial, asked, keep = numbers.unbind(2)
        tokens = draw_several((self.target - self.draft).clamp_(min=0), trial)
        draft, target = self.draft.unsqueeze(1), self.target.unsqueeze(1)
        around, theirs = ask(tokens, self.alike.back, self.alike.near, draft, target, asked)
        token, passed = thinning.first(around <= keep * theirs, tokens)
        return token, passed

    def weights(self, wanted: Bool[Tensor, ""] | None) -> Float[Tensor, "batch vocab"]:
        """The dense form is a sum over all pairs. On a GPU the host waits, where they are many, to be spared it."""
        over, under = over_and_under(self.draft, self.target)
        many = not self.alike.disjoint and len(under) * len(self.alike.near.members) > MANY
        if many and wanted is not None and not torch.compiler.is_compiling() and not wanted:
            return under
        left = (under * (1 - paired(under, over, self.alike.reversed))).clamp(min=0)
        return torch.where((left > 0).any(1, keepdim=True), left, under)  # where rounding leaves nothing


def over_and_under(draft: Probs, target: Probs) -> tuple[Probs, Probs]:
    """``(draft - target)+`` and ``(target - draft)+``."""
    gap = target - draft
    return (-gap).clamp(min=0), gap.clamp(min=0)


def ask(
    tokens: Int[Tensor, "batch n"],
    near: Neighbours,
    back: Neighbours,
    more: Float[Tensor, "batch #n vocab"],
    less: Float[Tensor, "batch #n vocab"],
    uniform: Float[Tensor, "batch n"],
) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Each token asks one of its neighbours, drawn from ``(more - less)+``.

    Returns:
        The total of ``(more - less)+`` over the neighbours of each token, and of ``(less - more)+`` over the tokens by
        which the neighbour may be asked, among them this one.
    """
    neighbour, around = draw_among(near.of(tokens), more, less, uniform)
    return around, total_among(back.of(neighbour), less, more)


def paired(mine: Probs, theirs: Probs, alike: Alike) -> Probs:
    """The share of ``mine(x)`` that is paired: ``sum over y in N(x) of theirs(y) / max(M(y), T(x))``.

    ``M(y)`` is the sum of ``mine`` over ``S(y)``, ``T(x)`` of ``theirs`` over ``N(x)``. The sum goes over all pairs of
    alike tokens, some rows at a time; where groups are disjoint it has a closed form.
    """
    around, asked = alike.near.total(theirs), alike.back.total(mine)
    if alike.disjoint:
        return around / _positive(around.maximum(asked))
    neighbours, owners, starts = alike.near.members, alike.near.owners, alike.near.starts
    pairs, shares = len(neighbours), []
    rows = [values.reshape(-1, values.shape[-1]) for values in (theirs, 1 / _positive(asked), 1 / _positive(around))]
    for weight, by_asked, by_around in zip(*(values.split(max(1, AT_ONCE // pairs)) for values in rows), strict=True):
        share = by_asked.index_select(1, neighbours).minimum(by_around.index_select(1, owners))
        share = (share * weight.index_select(1, neighbours)).view(-1, 1)
        row = torch.arange(len(weight), dtype=starts.dtype, device=starts.device).unsqueeze(1)
        begins = torch.cat([(pairs * row + starts[:-1]).flatten(), pairs * row[-1] + starts[-1:]])
        every = torch.arange(len(share), dtype=starts.dtype, device=starts.device)
        shares.append(embedding_bag(every, share, begins, mode="sum", include_last_offset=True))
    return torch.cat(shares).view(mine.shape)


def _positive(total: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What may be divided by: where a total is 0, so is all that it divides."""
    return total.clamp(min=torch.finfo(total.dtype).tiny)
