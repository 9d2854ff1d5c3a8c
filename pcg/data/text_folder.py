"""A user's own texts, a file each, each in a voice of its own or in none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pcg.data.audio import recorded_in
from pcg.data.voices import checked_limit
from pcg.ranges import LIMIT, Ranges
from pcg.types import Utterance


class TextFolder:
    """``<name>.txt`` is an utterance. ``<name>.wav`` is its voice, and ``<name>.prompt`` then says what the voice says.

    Args:
        path: folder.
        limit: first N by name; None for all.

    Raises:
        ValueError: no such folder, no texts in it, an empty text, or a voice without what it says.
    """

    RANGES: ClassVar[Ranges] = {"limit": LIMIT}

    def __init__(self, path: str, limit: int | None = None) -> None:
        self._folder, self._limit = Path(path).expanduser(), checked_limit(limit)
        if not self._folder.is_dir():
            raise ValueError(f"path={path}: no such folder")

    @cached_property
    def _utterances(self) -> list[Utterance]:
        files = sorted(self._folder.glob("*.txt"))[: self._limit]
        if not files:
            raise ValueError(f"{self._folder} holds no *.txt")
        return [_utterance(file) for file in files]

    def __len__(self) -> int:
        return len(self._utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)


def _utterance(file: Path) -> Utterance:
    text = " ".join(file.read_text(encoding="utf-8").split())
    if not text:
        raise ValueError(f"{file} is empty")
    voice, says = file.with_suffix(".wav"), file.with_suffix(".prompt")
    if not voice.is_file():
        return Utterance(file.stem, text)
    if not says.is_file():
        raise ValueError(f"{voice} is a voice, but {says.name}, which says what it says, is missing")
    prompt_text = " ".join(says.read_text(encoding="utf-8").split())
    return Utterance(file.stem, text, speaker=file.stem, prompt_text=prompt_text, load_prompt=recorded_in(voice))
