"""What a rule asks of its input, each failure one clear error.

Probabilities are checked on every call: a sum and a minimum over tensors that the models have just written cost
a few per cent of a rule and far less of a round, and a NaN that slips through would end as a silently wrong token.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.groups.table import GroupTable

TOLERANCE = 1e-3  # of a row's sum; float32 softmax over 65,536 tokens stays within 1e-4


def check_block(
    draft_tokens: Int[Tensor, "..."],
    draft_probs: Float[Tensor, "..."],
    target_probs: Float[Tensor, "..."],
    positions: Int[Tensor, "..."],
    groups: GroupTable | None = None,
) -> None:
    """The input of ``verify``.

    Raises:
        ValueError: for shapes that do not fit, or rows that are not distributions.
    """
    batch, gamma = draft_tokens.shape if draft_tokens.ndim == 2 else (0, 0)
    vocab = draft_probs.shape[-1]
    if (
        gamma < 1
        or draft_probs.shape != (batch, gamma, vocab)
        or target_probs.shape != (batch, gamma + 1, vocab)
        or positions.shape != (batch,)
    ):
        raise ValueError(
            "shapes do not fit: want draft_tokens (batch, gamma), draft_probs (batch, gamma, vocab), target_probs "
            "(batch, gamma+1, vocab) and positions (batch,) with gamma at least 1; got "
            + ", ".join(str(tuple(x.shape)) for x in (draft_tokens, draft_probs, target_probs, positions))
        )
    check_pair(draft_probs, target_probs, groups)


def check_pair(
    draft_probs: Float[Tensor, "..."], target_probs: Float[Tensor, "..."], groups: GroupTable | None = None
) -> None:
    """That every row is a distribution, and over the vocabulary of the groups.

    Raises:
        ValueError: for a NaN, an infinity, a negative number or a row that does not sum to 1.
    """
    if draft_probs.shape[-1] != target_probs.shape[-1]:
        raise ValueError(f"the draft has {draft_probs.shape[-1]} tokens, the target {target_probs.shape[-1]}")
    if groups is not None and groups.vocab_size != target_probs.shape[-1]:
        raise ValueError(f"groups over {groups.vocab_size} tokens, but the models have {target_probs.shape[-1]}")
    extremes = torch.stack([*_extremes(draft_probs), *_extremes(target_probs)]).tolist()  # one wait for the device
    for name, probs, found in [
        ("draft_probs", draft_probs, extremes[:3]),
        ("target_probs", target_probs, extremes[3:]),
    ]:
        least, low, high = found
        if not (least >= 0 and low > 1 - TOLERANCE and high < 1 + TOLERANCE):  # a NaN fails each
            raise ValueError(_describe(name, probs, probs.sum(-1)))


def _extremes(probs: Float[Tensor, "..."]) -> tuple[Tensor, Tensor, Tensor]:
    """The least probability, and the least and the greatest sum of a row."""
    return probs.amin(), *probs.sum(-1).aminmax()


def _describe(name: str, probs: Float[Tensor, "..."], sums: Float[Tensor, "..."]) -> str:
    if not probs.isfinite().all():
        return f"{name} holds NaN or infinity in {int((~probs.isfinite()).any(-1).sum())} of {sums.numel()} rows"
    if (probs < 0).any():
        return f"{name} holds negative numbers, down to {probs.min().item():.3g}: logits instead of probabilities?"
    return f"{name} is not normalised: rows sum to {sums.min().item():.4g} up to {sums.max().item():.4g}"
