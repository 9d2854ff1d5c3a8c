"""The steps that rules share: random numbers, the drafted tokens' probabilities, the emitted token, laws.

accepted: leading draft tokens kept. recovered: the token emitted after a rejection. bonus: the token after gamma
acceptances. A row's *end* is the position of its emitted token.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs
from pcg.sampling import Purpose, draw, draw_excess, or_else, single
from pcg.types import Verdict


def of_drafted(
    probs: Float[Tensor, "batch gamma vocab"], draft_tokens: Int[Tensor, "batch gamma"]
) -> Float[Tensor, "batch gamma"]:
    return probs.gather(2, draft_tokens.long().unsqueeze(2)).squeeze(2)


def bar(target_probs: Probs, floor: float) -> Float[Tensor, "*batch 1"]:
    """The probability that a token needs to be plausible to the target: ``floor max p``."""
    return floor * target_probs.amax(-1, keepdim=True)


def leading(kept: Bool[Tensor, "batch gamma"]) -> Int[Tensor, "batch"]:
    """How many tokens stand before the first that is not kept."""
    if single(kept):
        [row] = kept.tolist()
        return torch.full((1,), [*row, False].index(False))
    return kept.cumprod(1).sum(1)


def at_end(
    accepted: Int[Tensor, "batch"],
    draft_probs: Float[Tensor, "batch gamma vocab"],
    target_probs: Float[Tensor, "batch gamma+1 vocab"],
) -> tuple[Float[Tensor, "batch vocab"], Float[Tensor, "batch vocab"]]:
    """Draft and target distribution at each row's end; the draft's is 0 where the whole block was kept."""
    gamma = draft_probs.shape[1]
    if single(accepted):
        end = int(accepted)
        target = target_probs[:, end]
        return draft_probs[:, end] if end < gamma else torch.zeros_like(target), target
    rows = torch.arange(len(accepted), device=accepted.device)
    draft = draft_probs[rows, accepted.clamp(max=gamma - 1)] * (accepted < gamma).unsqueeze(1)
    return draft, target_probs[rows, accepted]


def emit(
    accepted: Int[Tensor, "batch"],
    recovered: Float[Tensor, "batch vocab"],
    target_end: Float[Tensor, "batch vocab"],
    numbers: Float[Tensor, "batch ends purposes"],
) -> Verdict:
    """Draw each row's last token: a bonus token from the target, a recovered one from the weights ``recovered``, or
    from the target where rounding has left them all 0."""
    bonus = (accepted == numbers.shape[1] - 1).unsqueeze(1)
    weights = torch.where(bonus, target_end, recovered)
    return Verdict(accepted, draw(or_else(weights, target_end), number_at_end(accepted, numbers)))


def emit_excess(
    accepted: Int[Tensor, "batch"],
    target_end: Float[Tensor, "batch vocab"],
    taken: Float[Tensor, "batch vocab"],
    numbers: Float[Tensor, "batch ends purposes"],
) -> Verdict:
    """Draw each row's last token from ``(target_end - taken)+``, the target where rounding has left nothing of it."""
    return Verdict(accepted, draw_excess(target_end, taken, number_at_end(accepted, numbers)))


def number_at_end(
    accepted: Int[Tensor, "batch"], numbers: Float[Tensor, "batch ends purposes"]
) -> Float[Tensor, "batch"]:
    """What the recovered or bonus token of each row is drawn with."""
    gamma = numbers.shape[1] - 1
    if single(accepted):
        end = int(accepted)
        return numbers[:, end, Purpose.BONUS if end == gamma else Purpose.RECOVERED]
    ends = numbers[torch.arange(len(accepted), device=accepted.device), accepted]
    return torch.where(accepted == gamma, ends[:, Purpose.BONUS], ends[:, Purpose.RECOVERED])


def ratio(draft: Probs, target: Probs) -> Probs:
    """``min(1, p/q)``, with which the ratio test keeps a token; any number where the draft never says it."""
    return (target / torch.where(draft > 0, draft, 1)).clamp(max=1)


def residual(draft_probs: Probs, target_probs: Probs) -> Probs:
    """``(p - q)+``, normalised; the target itself where the two agree and nothing is ever rejected."""
    return _normalised((target_probs - draft_probs).clamp(min=0), target_probs)


def mixture(draft_probs: Probs, keep: Probs | Bool[Tensor, "*batch vocab"], recovered: Probs) -> Probs:
    """Law of one token: kept with probability ``keep``, else drawn from ``recovered`` whatever was rejected."""
    kept = draft_probs * keep
    return kept + (1 - kept.sum(-1, keepdim=True)).clamp(min=0) * recovered


def truncated(target_probs: Probs, kept: Bool[Tensor, "*batch vocab"]) -> Probs:
    """The target cut to the tokens that a rule keeps; the target itself where it keeps none."""
    return _normalised(target_probs * kept, target_probs)


def _normalised(weights: Probs, otherwise: Probs) -> Probs:
    """The weights divided by their sum; ``otherwise`` where they are all 0."""
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.clamp(min=torch.finfo(total.dtype).tiny), otherwise)
