"""Whether a draft and a target speak the same tokens."""

from __future__ import annotations

from pcg.interfaces import TokenLM


def check_compatible(draft: TokenLM, target: TokenLM) -> None:
    """Raises ValueError that names the first difference in what the two models emit, or where they are."""
    if draft.vocab_size != target.vocab_size:
        raise ValueError(
            f"draft and target must share one codec: the draft has {draft.vocab_size - 1} audio tokens, "
            f"the target {target.vocab_size - 1}"
        )
    if draft.end != target.end:
        raise ValueError(f"end-of-speech is speech token {draft.end} in the draft, {target.end} in the target")
    if draft.device != target.device:
        raise ValueError(f"the draft is on {draft.device}, the target on {target.device}: put both on one device")
