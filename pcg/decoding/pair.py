"""Checks that a draft and a target have the same speech tokens."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pcg.interfaces import SpeechModel


@runtime_checkable
class HasTokens(Protocol):
    """The attributes of a model that say which tokens it has; its ``text``, if any, has their names."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end(self) -> int: ...


def check_compatible(draft: SpeechModel, target: SpeechModel) -> None:
    """Raises ValueError that names the first difference in tokens, or the two devices where these differ."""
    check_tokens(draft, target)
    if draft.device != target.device:
        raise ValueError(f"the draft is on {draft.device}, the target on {target.device}: put both on one device")


def check_tokens(draft: HasTokens, target: HasTokens) -> None:
    """Raises ValueError that names the first difference between the tokens of the two models."""
    if draft.vocab_size != target.vocab_size:
        raise ValueError(
            f"draft and target must share one codec: the draft has {draft.vocab_size - 1} audio tokens, "
            f"the target {target.vocab_size - 1}"
        )
    if draft.end != target.end:
        raise ValueError(f"end-of-speech is speech token {draft.end} in the draft, {target.end} in the target")
    _check_names(draft, target)


def _check_names(draft: HasTokens, target: HasTokens) -> None:
    """Speech tokens must have the same names; their ids may differ. A model without a tokenizer has no names."""
    sides = [getattr(model, "text", None) for model in (draft, target)]
    if not all(hasattr(side, "speech_names") for side in sides):
        return
    names = [side.speech_names for side in sides]  # type: ignore[union-attr]
    for index, (in_draft, in_target) in enumerate(zip(*names, strict=True)):
        if in_draft != in_target:
            raise ValueError(
                f"speech token {index} is {in_draft} in the draft, {in_target} in the target: "
                "both must be of one family"
            )
