"""The tokens that vLLM may sample; all others get probability 0, in target and draft.

vLLM's own ``allowed_token_ids`` of a request applies to the target only, and its second runner takes at most 1,024 ids.
Here the logits of both models are masked where they are computed; our own loop computes logits of speech alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

KEY = "pcg_allowed_token_ids"  # in additional_config: [[first, end], ...] without the end
SIGNATURE = ("self", "lm_head", "hidden_states", "embedding_bias", "skip_gather")


def ranges_of(ids: Int[Tensor, "tokens"]) -> list[list[int]]:
    """The ids as ascending ranges."""
    ids = ids.unique()
    first = torch.cat([ids[:1], ids[1:][ids.diff() > 1]])
    last = torch.cat([ids[:-1][ids.diff() > 1], ids[-1:]])
    return torch.stack([first, last + 1], 1).tolist()


def barred(ranges: Sequence[Sequence[int]], rows: int, device: torch.device | str) -> Bool[Tensor, "{rows}"]:
    """Marks the tokens that are in none of the ranges."""
    mask = torch.ones(rows, dtype=torch.bool)
    for first, end in ranges:
        mask[first:end] = False
    return mask.to(device)


def check(ranges: Any) -> None:
    """Raises ValueError unless these are ranges of ids, none of them empty."""
    pairs = isinstance(ranges, list) and ranges and all(isinstance(pair, list) and len(pair) == 2 for pair in ranges)
    if not pairs or not all(isinstance(i, int) for pair in ranges for i in pair):
        raise ValueError(f"{KEY}={ranges!r} must be ranges of ids, [[first, end], ...]")
    if not all(0 <= first < end for first, end in ranges):
        raise ValueError(f"{KEY}={ranges!r}: each range must have 0 <= first < end")
