"""LibriTTS (Zen et al. 2019, arXiv 1904.02882) in the folders as published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated

from pcg.constraints import BOUNDS, Limit, checked
from pcg.data.reading import read_text
from pcg.data.voices import Clip, Voices
from pcg.files import no_folder
from pcg.types import Utterance


@checked
class LibriTTSLocal:
    """``<speaker>/<chapter>/<id>.wav``, each with ``<id>.normalized.txt``, in the order of their ids.

    Args:
        path: one set, such as ``LibriTTS/test-clean``.
        limit: first N utterances; None for all.
        prompt_seconds: shortest and longest voice prompt.
        seed: of the choice of voice prompts, which does not depend on the limit.

    Raises:
        ValueError: there is no such folder, it has no recordings, or a recording has no text.
    """

    def __init__(
        self,
        path: str,
        limit: Limit = None,
        prompt_seconds: Annotated[Sequence[float], BOUNDS] = (3.0, 8.0),
        seed: int = 0,
    ) -> None:
        self._folder, self._limit = Path(path).expanduser(), limit
        self._voices = Voices(prompt_seconds[0], prompt_seconds[1], seed)
        if not self._folder.is_dir():
            raise ValueError(f"path={no_folder(self._folder)}")

    @cached_property
    def _clips(self) -> list[Clip]:
        files = sorted(self._folder.glob("[!.]*/[!.]*/[!.]*.wav"), key=lambda file: file.stem)
        if not files:
            raise ValueError(
                f"{self._folder} holds no <speaker>/<chapter>/<id>.wav; give one set, such as LibriTTS/test-clean"
            )
        missing = [_text_file(file) for file in files if not _text_file(file).is_file()]
        if missing:
            raise ValueError(f"{len(missing)} recording(s) have no text; the first missing file is {missing[0]}")
        return [
            Clip(file.stem, file.parts[-3], read_text(_text_file(file)).strip(), file.read_bytes, str(file))
            for file in files
        ]

    def __len__(self) -> int:
        return len(self._clips[: self._limit])

    def __iter__(self) -> Iterator[Utterance]:
        return self._voices.utterances(self._clips, self._limit)


def _text_file(wav: Path) -> Path:
    return wav.with_suffix(".normalized.txt")
