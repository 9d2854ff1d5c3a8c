"""Whether a draft and a target speak the same tokens."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pcg.interfaces import SpeechModel


@runtime_checkable
class Speaks(Protocol):
    """What of a model tells its tokens; ``text``, if it has one, their names."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end(self) -> int: ...


def check_compatible(draft: SpeechModel, target: SpeechModel) -> None:
    """Raises ValueError that names the first difference in what the two models emit, or where they are."""
    check_tokens(draft, target)
    if draft.device != target.device:
        raise ValueError(f"the draft is on {draft.device}, the target on {target.device}: put both on one device")


def check_tokens(draft: Speaks, target: Speaks) -> None:
    """Raises ValueError that names the first difference in what the two models emit."""
    if draft.vocab_size != target.vocab_size:
        raise ValueError(
            f"draft and target must share one codec: the draft has {draft.vocab_size - 1} audio tokens, "
            f"the target {target.vocab_size - 1}"
        )
    if draft.end != target.end:
        raise ValueError(f"end-of-speech is speech token {draft.end} in the draft, {target.end} in the target")
    _check_names(draft, target)


def _check_names(draft: Speaks, target: Speaks) -> None:
    """Speech tokens must have the same names, whatever their ids; a model without a tokenizer has none to compare."""
    sides = [getattr(model, "text", None) for model in (draft, target)]
    if not all(hasattr(side, "speech_names") for side in sides):
        return
    known = [side.speech_names for side in sides]  # type: ignore[union-attr]
    for index, (in_draft, in_target) in enumerate(zip(*known, strict=True)):
        if in_draft != in_target:
            raise ValueError(
                f"speech token {index} is {in_draft} in the draft, {in_target} in the target: "
                "both must be of one family"
            )
