"""Tokens that a served pair may say: all others have no probability, in target and draft alike.

vLLM's own ``allowed_token_ids`` of a request reaches the target alone, and in its second runner takes 1,024 ids at
most. Here both models' logits are barred where they are made, as our own loop computes those of speech alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

KEY = "pcg_allowed_token_ids"  # in additional_config: [[first, end], ...], the end not among them
SIGNATURE = ("self", "lm_head", "hidden_states", "embedding_bias", "skip_gather")


def ranges_of(ids: Int[Tensor, "tokens"]) -> list[list[int]]:
    """The ids as ranges, in their order."""
    ids = ids.unique()
    first = torch.cat([ids[:1], ids[1:][ids.diff() > 1]])
    last = torch.cat([ids[:-1][ids.diff() > 1], ids[-1:]])
    return torch.stack([first, last + 1], 1).tolist()


def barred(ranges: Sequence[Sequence[int]], rows: int, device: torch.device | str) -> Bool[Tensor, "{rows}"]:
    """Which tokens are in none of the ranges."""
    mask = torch.ones(rows, dtype=torch.bool)
    for first, end in ranges:
        mask[first:end] = False
    return mask.to(device)


def check(ranges: Any) -> None:
    """Raises ValueError: these are no ranges, or there is no token in them."""
    pairs = isinstance(ranges, list) and ranges and all(isinstance(each, list) and len(each) == 2 for each in ranges)
    if not pairs or not all(isinstance(i, int) for each in ranges for i in each):
        raise ValueError(f"{KEY}={ranges!r}: want ranges of ids, [[first, end], ...]")
    if not all(0 <= first < end for first, end in ranges):
        raise ValueError(f"{KEY}={ranges!r}: in each range 0 <= first < end")
