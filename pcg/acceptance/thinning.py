"""Draws from a residual that is not written out: tokens are proposed, and the first that passes its own test is taken.

A residual over the vocabulary, or over groups, costs a pass over the whole table of groups. Thinning needs only what a
proposed token stands next to: propose ``t`` from a distribution that is at hand, keep it with the share of it that the
residual has, else propose again. A kept token has the residual's law. Trials come in stages, since most rows are served
by the first few; a row that no trial serves takes the dense form, which has the same law. So the answer is exact and
its cost is bounded.

Where values may not decide what is done next (``pcg.sampling.may_look``), all rows go through every stage, and each
takes the token of the first that has one for it: the same numbers, the same tokens, and no wait.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.sampling import Purpose, Randomness, draw, may_look, single
from pcg.types import Verdict

# Trials that a row has had after each stage. 95 % of the bundled pair's rejections are recovered by the first few.
TRIALS = 6, 24, 184
MANY = 256  # rows, from which on the trials of a stage cost more than one stage more


@runtime_checkable
class Residual(Protocol):
    """What a token is drawn from after a rejection, one distribution a row."""

    def propose(self, numbers: Float[Tensor, "batch trials 3"]) -> tuple[Int[Tensor, "batch"], Bool[Tensor, "batch"]]:
        """The first token of each row that passes, and whether any does. Each trial has three numbers of its own."""

    def weights(self, wanted: Bool[Tensor, ""] | None) -> Float[Tensor, "batch vocab"]:
        """The residual, not normalised. Where ``wanted`` is false it is not read; None is true."""

    def keep(self, rows: Int[Tensor, "kept"]) -> Residual:
        """The residual of these rows alone."""


def emit(
    accepted: Int[Tensor, "batch"],
    residual: Residual,
    target_end: Float[Tensor, "batch vocab"],
    positions: Int[Tensor, "batch"],
    numbers: Float[Tensor, "batch ends purposes"],
    randomness: Randomness,
) -> Verdict:
    """The verdict: a bonus token from the target where the whole block was kept, elsewhere one from the residual.

    Args:
        residual: at each row's end.
        target_end: target distribution there.
        positions: of the first drafted token.
        numbers: of the block.
    """
    gamma = numbers.shape[1] - 1
    ends = accepted.tolist() if may_look(accepted) else [0, gamma]  # where nobody may look, both are drawn
    if gamma not in ends:
        return Verdict(accepted, recover(residual, positions + accepted, randomness))
    bonus = draw(target_end, numbers[:, gamma, Purpose.BONUS])
    if min(ends) == gamma:
        return Verdict(accepted, bonus)
    recovered = recover(residual, positions + accepted, randomness)
    return Verdict(accepted, torch.where(accepted < gamma, recovered, bonus))


def recover(
    residual: Residual,
    at: Int[Tensor, "batch"],
    randomness: Randomness,
    had: int = 0,
    wanted: Bool[Tensor, ""] | None = None,
) -> Int[Tensor, "batch"]:
    """A token from the residual; rows that were not rejected get some token.

    Args:
        at: position of the token.
        had: trials before this stage.
        wanted: whether a row is left for this stage; None is true.
    """
    if had == TRIALS[-1]:
        return draw(residual.weights(wanted), randomness.uniform(at, Purpose.RECOVERED))
    trials = next_stage(had, at)
    numbers = randomness.draws(at, Purpose.TRIAL, 3 * trials)[:, 3 * had :].reshape(len(at), -1, 3)
    token, passed = residual.propose(numbers)
    if not may_look(passed):
        return torch.where(passed, token, recover(residual, at, randomness, trials, ~passed.all()))
    if all(passed.tolist()):
        return token
    if single(passed):
        return recover(residual, at, randomness, trials)
    left = (~passed).nonzero().squeeze(1)
    token[left] = recover(residual.keep(left), at[left], randomness.keep(left), trials)
    return token


def next_stage(had: int, rows: Int[Tensor, "rows"] | Bool[Tensor, "rows"]) -> int:
    """How many trials there are after the stage that follows ``had``.

    The first few are a stage of their own for one row and for very many; for some rows, and where nobody may look and
    all go through every stage, it would cost more than it saves. What a row draws is the same.
    """
    few = single(rows) or (len(rows) > MANY and may_look(rows))
    stages = TRIALS if few else TRIALS[1:] or TRIALS
    return next(trials for trials in stages if trials > had)


def first(
    kept: Bool[Tensor, "batch trials"], *proposed: Int[Tensor, "batch trials"]
) -> tuple[Int[Tensor, "batch"] | Bool[Tensor, "batch"], ...]:
    """What the first kept trial of each row has proposed, in the order of the arguments, then whether one was kept."""
    if single(kept):
        [row] = kept.tolist()
        place = row.index(True) if True in row else 0
        return *(tokens[:, place] for tokens in proposed), kept[:, place]
    at = kept.byte().argmax(1, keepdim=True)
    return *(tokens.gather(1, at).squeeze(1) for tokens in proposed), kept.any(1)
