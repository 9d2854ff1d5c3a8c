"""LibriTTS (Zen et al. 2019, arXiv 1904.02882) from the Hugging Face hub, or from a folder of the same layout."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from pcg.constraints import BOUNDS, Limit, checked
from pcg.data.stored import open_rows, text_of
from pcg.data.voices import Clip, Voices, grouped
from pcg.types import Utterance


@checked
class LibriTTS:
    """Parquet with columns audio, text_normalized, speaker_id and id, read at first use.

    Without streaming the set is memory-mapped, and clips are read from disk. With streaming it is read from the
    beginning into a temporary folder, until there are ``limit`` utterances and a voice prompt for each. Prompts are
    then chosen from fewer clips, so compare streamed runs only with streamed runs.

    Args:
        path: hub id, or folder.
        config: ``clean``, ``other``, ``all`` or ``dev``.
        split: ``test.clean``, ``dev.clean``, ...
        limit: first N utterances; None for all.
        streaming: read only what is needed, and do not cache it.
        prompt_seconds: shortest and longest voice prompt.
        seed: of the choice of voice prompts, which does not depend on the limit.

    Raises:
        ValueError: the limit is below 1.
        FileNotFoundError, ValueError: at first use, the set cannot be found or is damaged.
    """

    def __init__(
        self,
        path: str = "mythicinfinity/libritts",
        config: str = "clean",
        split: str = "test.clean",
        limit: Limit = None,
        streaming: bool = False,
        prompt_seconds: Annotated[Sequence[float], BOUNDS] = (3.0, 8.0),
        seed: int = 0,
    ) -> None:
        self._path, self._config, self._split = path, config, split
        self._limit, self._streaming = limit, streaming
        self._voices = Voices(prompt_seconds[0], prompt_seconds[1], seed)

    def __len__(self) -> int:
        return len(self._clips[: self._limit])

    def __iter__(self) -> Iterator[Utterance]:
        return self._voices.utterances(self._clips, self._limit)

    @cached_property
    def _clips(self) -> list[Clip]:
        return self._stream() if self._streaming else self._mapped()

    def _open(self) -> Any:
        """The set with audio as bytes, which ``datasets`` would otherwise decode with torchcodec."""
        try:
            rows = open_rows(self._path, self._config, self._split, self._streaming)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}; or use a published folder: dataset=libritts_local dataset.path=LibriTTS/test-clean"
            ) from error
        if not hasattr(rows, "cast_column"):
            return rows  # our own parquet rows, which hold bytes
        from datasets import Audio

        return rows.cast_column("audio", Audio(decode=False))

    def _mapped(self) -> list[Clip]:
        rows = self._open()
        audio = rows.select_columns("audio")
        about = rows.remove_columns("audio")
        return [self._clip(row, partial(_bytes, audio, index)) for index, row in enumerate(about)]

    def _stream(self) -> list[Clip]:
        spool = Path(tempfile.mkdtemp(prefix="pcg-libritts-"))
        weakref.finalize(self, shutil.rmtree, spool, ignore_errors=True)
        clips: list[Clip] = []
        for row in self._open():
            file = spool / str(len(clips))
            file.write_bytes(row["audio"]["bytes"])
            clips.append(self._clip(row, file.read_bytes))
            if self._limit is not None and len(clips) >= self._limit and self._all_voiced(clips):
                break
        return clips

    def _clip(self, row: Mapping[str, Any], read: Callable[[], bytes]) -> Clip:
        name = str(row["id"])
        source = f"recording {name} of {self._path}"
        text = text_of(dict(row), "text_normalized", f"row {name} of {self._path}")
        return Clip(name, str(row["speaker_id"]), text, read, source)

    def _all_voiced(self, clips: Sequence[Clip]) -> bool:
        by_speaker = grouped(clips)
        return all(self._voices.choose(clip, by_speaker[clip.speaker]) for clip in clips[: self._limit])


def _bytes(audio: Any, index: int) -> bytes:
    return audio[index]["audio"]["bytes"]
