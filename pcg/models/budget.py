"""Chooses the entries of a prompt that a draft keeps if its cache has a budget (BudgetDraft).

Source: the repository ANTI-Tony/BudgetDraft. Entries are chosen once, after prefill, in chunks of 8: the first chunk,
and those whose mean key has the largest product with the prompt's last key, summed over heads. Kept entries keep their
positions. Departure: the last chunk is kept too, since speech continues it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 8


def kept_entries(keys: Float[Tensor, "heads length dim"], budget: int) -> Int[Tensor, "kept"]:
    """The kept positions of a prompt, ascending: all of them, or at most ``budget``, in whole chunks.

    Args:
        keys: of the prompt, with rotary positions applied.
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
