"""What plain arguments may be beyond their types: a constructor says it in ``RANGES``, and a config is held to it
before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Range = tuple[Callable[[Any], bool], str]
# Key -> (what a value of the right type must satisfy, in words).
Ranges = Mapping[str, Range]

FROM_1: Range = (lambda value: value >= 1, "1 or more")
FROM_0: Range = (lambda value: value >= 0, "0 or more")
ABOVE_0: Range = (lambda value: value > 0, "above 0")


def up_to(most: int) -> Range:
    """A count that memory or time is taken for: 1 to ``most``, which nobody needs and a slip of the finger exceeds."""
    return (lambda value: 1 <= value <= most, f"1 to {most:,}")


LIMIT: Range = (lambda value: value is None or value >= 1, "1 or more, or null for all")
BOUNDS: Range = (lambda value: len(value) == 2 and 0 <= value[0] <= value[1], "the least and the most, two numbers")
DEVICE: Range = (
    lambda value: re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)) is not None, "auto, cpu, cuda or cuda:N"
)  # fmt: skip
LANGUAGE: Range = (lambda value: re.fullmatch(r"[a-z]{2,3}", value) is not None, "a code such as en, zh, de")


def out_of_range(values: Mapping[str, Any], ranges: Ranges) -> list[str]:
    """``key=value: what is allowed`` for every value that is there and does not fit."""
    return [
        f"{key}={values[key]!r}: {words}"
        for key, (fits, words) in ranges.items()
        if key in values and not fits(values[key])
    ]
