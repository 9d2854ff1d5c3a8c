"""Which entries of a prompt a draft keeps where its cache has a budget (BudgetDraft).

Source: the repository ANTI-Tony/BudgetDraft. Chosen once, after prefill: chunks of 8 entries, of which the first stays
always, and of the others those whose mean key meets the prompt's last key best, over all heads. What is kept stays at
its true positions. Departure: the last chunk stays too, since in speech it is what goes on.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 8


def kept_entries(keys: Float[Tensor, "heads length dim"], budget: int) -> Int[Tensor, "kept"]:
    """Positions of a prompt that are kept, ascending: all of it, or ``budget`` at most, in whole chunks.

    Args:
        keys: of the prompt, turned to their positions.
    """
    length = keys.shape[1]
    if length <= budget:
        return torch.arange(length, device=keys.device)
    chunk = torch.arange(length, device=keys.device) // CHUNK
    count = int(chunk[-1]) + 1
    sums = keys.new_zeros(len(keys), count, keys.shape[2], dtype=torch.float32).index_add_(1, chunk, keys.float())
    scores = torch.einsum("hd,hcd->c", keys[:, -1].float(), sums) / chunk.bincount(minlength=count)
    scores[[0, -1]] = torch.inf
    best = scores.topk(max(budget // CHUNK, 1)).indices
    return torch.isin(chunk, best).nonzero().flatten()
