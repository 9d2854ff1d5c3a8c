"""What rules are given: the shapes of distributions, and the checks of a block and of a pair of distributions."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from pcg.groups.table import GroupTable
from pcg.sampling import check_probabilities
from pcg.types import Probs as Probs  # which rules import from here, beside their checks
from pcg.types import Rates as Rates


def check_block(
    draft_tokens: Int[Tensor, "..."],
    draft_probs: Float[Tensor, "..."],
    target_probs: Float[Tensor, "..."],
    positions: Int[Tensor, "..."],
    groups: GroupTable | None = None,
) -> None:
    """Check the input of ``verify``.

    Raises:
        ValueError: shapes do not fit, or a row is not a distribution.
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
            "shapes do not fit: expected draft_tokens (batch, gamma), draft_probs (batch, gamma, vocab), target_probs "
            "(batch, gamma+1, vocab) and positions (batch,) with gamma at least 1; got "
            + ", ".join(str(tuple(x.shape)) for x in (draft_tokens, draft_probs, target_probs, positions))
        )
    check_pair(draft_probs, target_probs, groups)


def check_pair(
    draft_probs: Float[Tensor, "..."], target_probs: Float[Tensor, "..."], groups: GroupTable | None = None
) -> None:
    """Check that every row is a distribution over the vocabulary of both models and of the groups.

    Raises:
        ValueError: a vocabulary differs, a number is NaN, infinite or negative, or a row does not sum to 1.
    """
    if draft_probs.shape[-1] != target_probs.shape[-1]:
        raise ValueError(f"the draft has {draft_probs.shape[-1]} tokens, the target {target_probs.shape[-1]}")
    if groups is not None and groups.vocab_size != target_probs.shape[-1]:
        raise ValueError(f"the groups are over {groups.vocab_size} tokens, the models over {target_probs.shape[-1]}")
    check_probabilities(draft_probs=draft_probs, target_probs=target_probs)
