"""The function that an engine's adapter calls: ragged blocks of drafts in, the tokens that a rule emits out.

Shapes do not depend on data and nothing waits for the device, so an engine's own scheduling is unchanged.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.steps import leading
from pcg.interfaces import Rule
from pcg.sampling import Purpose, Randomness, draw
from pcg.types import Verdict

NONE = -1  # no draft here, no token there


def decide(
    rule: Rule,
    draft_tokens: Int[Tensor, "batch gamma"],
    draft_probs: Float[Tensor, "batch gamma vocab"],
    target_probs: Float[Tensor, "batch gamma+1 vocab"],
    positions: Int[Tensor, "batch"],
    randomness: Randomness,
    greedy: Bool[Tensor, "batch"] | None = None,
    best: Int[Tensor, "batch gamma+1"] | None = None,
) -> Int[Tensor, "batch gamma+1"]:
    """The tokens of each row, followed by ``NONE``.

    A row's drafts end at its first ``NONE``; if all of them are kept, the next token is drawn from the target, as at
    the end of a shorter block. A rule that tests token by token is not affected by entries behind the first ``NONE``.
    A rule that tests blocks decides as for a longer block, whose first tokens have the same law.

    Args:
        draft_tokens: ``NONE`` where there is no draft; the probabilities there may be any distribution.
        greedy: rows at temperature 0, which are decoded exactly with any rule.
        best: the target's most likely tokens; required where some row is greedy.
    """
    drafted = draft_tokens >= 0
    draft_counts = leading(drafted)
    tokens = draft_tokens.clamp(min=0)
    verdict = rule.verify(tokens, draft_probs, target_probs, positions, randomness)
    ended = verdict.accepted >= draft_counts
    end = target_probs[torch.arange(len(draft_counts), device=draft_counts.device), draft_counts]
    own = draw(end, randomness.uniform(positions + draft_counts, Purpose.TOKEN))
    full = draft_counts == draft_tokens.shape[1]
    verdict = Verdict(
        verdict.accepted.minimum(draft_counts), torch.where(ended & ~full, own.to(verdict.token.dtype), verdict.token)
    )
    if greedy is not None and best is not None:
        kept = leading(drafted & (tokens == best[:, :-1]))
        verdict = Verdict(
            torch.where(greedy, kept, verdict.accepted),
            torch.where(greedy, best.gather(1, kept.unsqueeze(1)).squeeze(1), verdict.token),
        )
    return _laid_out(tokens, verdict)


def _laid_out(tokens: Int[Tensor, "batch gamma"], verdict: Verdict) -> Int[Tensor, "batch gamma+1"]:
    steps = torch.arange(tokens.shape[1] + 1, device=tokens.device)
    end = verdict.accepted.unsqueeze(1)
    emitted = torch.where(steps == end, verdict.token.unsqueeze(1), torch.nn.functional.pad(tokens, (0, 1)))
    return torch.where(steps <= end, emitted, NONE)


def rows_of(
    starts: Int[Tensor, "batch"], counts: Int[Tensor, "batch"], width: int
) -> tuple[Int[Tensor, "batch {width}"], Bool[Tensor, "batch {width}"]]:
    """Indices into a flat tensor of the entries of ragged rows, padded to ``width``, and which of them are no padding.

    Padding repeats the index of a row's last entry; an empty row gets the index of a neighbour's entry.
    """
    steps = torch.arange(width, device=starts.device)
    last = (counts - 1).clamp(min=0).unsqueeze(1)
    return starts.unsqueeze(1) + steps.minimum(last), steps < counts.unsqueeze(1)
