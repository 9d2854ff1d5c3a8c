"""Drafts a block of tokens, one step after another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.history import History, stack
from pcg.interfaces import Drafted
from pcg.sampling import Sampling, draw


def chain(
    step: Callable[[Int[Tensor, "batch new"]], Float[Tensor, "batch vocab"]],
    token_ids: Callable[[Int[Tensor, "batch 1"]], Int[Tensor, "batch 1"]],
    latest: Int[Tensor, "batch unread"],
    uniform: Float[Tensor, "batch gamma"],
    sampling: Sampling,
    history: History | None,
) -> Drafted:
    """Draws a token with each number of ``uniform`` and feeds it to the next step.

    Returns:
        The tokens, the distribution that each was drawn from, and the history before each of them and at the end.
    """
    tokens: list[Tensor] = []
    probs, histories = [], [history]
    for number in uniform.unbind(1):
        logits = step(token_ids(tokens[-1]) if tokens else latest)
        probs.append(sampling.probabilities(logits, histories[-1]))
        token = draw(probs[-1], number)
        tokens.append(token.unsqueeze(1))
        histories.append(histories[-1] and histories[-1].after(token))
    given = [history for history in histories if history is not None]
    return torch.cat(tokens, 1), torch.stack(probs, 1), stack(given, 1) if given else None
