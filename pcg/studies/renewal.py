"""What speculative decoding would do along a known sequence, from the acceptance of each of its positions.

A round that starts at position s tests the positions s, s+1, ... and keeps each with its own probability,
independently, until the first rejection or gamma tokens. It emits one token more, and the next round starts after it.
Starts then form a renewal process along the sequence, whose expectations are sums, without sampling.

It differs from real decoding in two ways. The tokens kept and recovered are taken to be the sequence's own, so that
every later position is as it was recorded. And a rule that tests the block as one keeps more than it does token by
token.

Where positions have several candidates the first one continues the block. Another candidate that is kept ends the
round, and one token more is emitted after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rounds:
    """Expected counts over the sequence, one a row. ``tau`` is positions / rounds, alpha is accepted / tested."""

    rounds: Float[Tensor, "rows"]
    tested: Float[Tensor, "rows"]
    accepted: Float[Tensor, "rows"]


def rounds_along(
    alphas: Float[Tensor, "rows positions"], gamma: int, firsts: Float[Tensor, "rows positions"] | None = None
) -> Rounds:
    """Expected rounds, tests and acceptances until the last position is emitted.

    Args:
        alphas: probability that the drafted token of each position is kept; the last position is end-of-speech, after
            which nothing is tested or emitted.
        gamma: drafted positions a round.
        firsts: probability that the first candidate is kept, where positions have several.
    """
    alphas = alphas.double().cpu()
    firsts = alphas if firsts is None else firsts.double().cpu()
    positions = alphas.shape[1]
    # kept[:, s, i]: the probability that the first candidates of the i positions from s on are all kept; 0 where they
    # leave the sequence
    any_kept, first_kept = (
        torch.nn.functional.pad(rates, (0, gamma)).unfold(1, gamma, 1)[:, :positions] for rates in (alphas, firsts)
    )
    kept = torch.nn.functional.pad(first_kept.cumprod(2), (1, 0), value=1.0)
    emits = kept - torch.nn.functional.pad(kept[..., 1:], (0, 1))  # i kept, the next not: i + 1 tokens emitted
    by_rival = kept[..., :-1] * (any_kept - first_kept)  # one more where another candidate is kept instead
    emits[..., :-1] -= by_rival
    emits[..., 1:] += by_rival
    inside = torch.arange(positions)[:, None] + torch.arange(gamma) < positions

    starts = torch.zeros(len(alphas), positions + gamma + 1, dtype=torch.float64)
    starts[:, 0] = 1
    for at in range(positions):
        starts[:, at + 1 : at + gamma + 2] += starts[:, at : at + 1] * emits[:, at]
    starts = starts[:, :positions]
    tested, accepted = (kept[..., :-1] * inside).sum(2), (kept[..., 1:] + by_rival).sum(2)
    return Rounds(starts.sum(1), (starts * tested).sum(1), (starts * accepted).sum(1))
