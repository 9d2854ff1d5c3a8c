"""What an engine's adapter calls: blocks of drafts with holes in them in, the tokens that a rule emits out.

Shapes depend on none of the numbers, and nothing here waits for the device, so an engine's own schedule stays.
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

    A row's drafts end at its first ``NONE``, where the token is the target's own: in law that is the end of a shorter
    block. What is kept before it does not depend on drafts behind it where a rule tests token by token; a rule that
    tests blocks keeps what it would keep of a longer one, whose first tokens have the same law.

    Args:
        draft_tokens: ``NONE`` where there is no draft; probabilities there are any distribution.
        greedy: rows that are decoded at temperature 0: exactly, whatever the rule.
        best: the target's most likely token; needed where some row is greedy.
    """
    drafted = draft_tokens >= 0
    there = leading(drafted)
    tokens = draft_tokens.clamp(min=0)
    verdict = rule.verify(tokens, draft_probs, target_probs, positions, randomness)
    ended = verdict.accepted >= there
    end = target_probs[torch.arange(len(there), device=there.device), there]
    own = draw(end, randomness.uniform(positions + there, Purpose.TOKEN))
    full = there == draft_tokens.shape[1]
    verdict = Verdict(
        verdict.accepted.minimum(there), torch.where(ended & ~full, own.to(verdict.token.dtype), verdict.token)
    )
    if greedy is not None and best is not None:
        kept = leading(drafted & (tokens == best[:, :-1]))
        verdict = Verdict(
            torch.where(greedy, kept, verdict.accepted),
            torch.where(greedy, best.gather(1, kept.unsqueeze(1)).squeeze(1), verdict.token),
        )
    return _laid_out(tokens, verdict)


def _laid_out(tokens: Int[Tensor, "batch gamma"], verdict: Verdict) -> Int[Tensor, "batch gamma+1"]:
    places = torch.arange(tokens.shape[1] + 1, device=tokens.device)
    end = verdict.accepted.unsqueeze(1)
    said = torch.where(places == end, verdict.token.unsqueeze(1), torch.nn.functional.pad(tokens, (0, 1)))
    return torch.where(places <= end, said, NONE)


def rows_of(
    starts: Int[Tensor, "batch"], counts: Int[Tensor, "batch"], width: int
) -> tuple[Int[Tensor, "batch {width}"], Bool[Tensor, "batch {width}"]]:
    """Where the entries of ragged rows lie in a flat tensor, side by side, and which of the places are theirs.

    Places beyond a row's count are at its last entry, or at the nearest of another row's where it has none.
    """
    steps = torch.arange(width, device=starts.device)
    last = (counts - 1).clamp(min=0).unsqueeze(1)
    return starts.unsqueeze(1) + steps.minimum(last), steps < counts.unsqueeze(1)
