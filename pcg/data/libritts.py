"""LibriTTS (Zen et al. 2019, arXiv 1904.02882) from the Hugging Face hub, or from a folder laid out as it is there."""

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
    """Parquet with columns audio, text_normalized, speaker_id and id, read when first asked for.

    Cached, the set lies memory-mapped on disk and clips are read from there. Streamed, it is read from the
    beginning until the first ``limit`` utterances and a voice prompt for each have come; what came lies in a
    temporary folder. A streamed run so chooses its prompts among fewer clips: compare it with streamed runs only.

    Args:
        path: hub id, or folder.
        config: ``clean``, ``other``, ``all`` or ``dev``.
        split: ``test.clean``, ``dev.clean``, ...
        limit: first N utterances; None for all.
        streaming: read no more than is needed, without keeping it.
        prompt_seconds: shortest and longest voice prompt.
        seed: of the choice of voice prompts; the same one gives the same prompts, whatever the limit.

    Raises:
        ValueError: a limit below 1.
        FileNotFoundError, ValueError: when first read, where the set is neither here nor to be had, or damaged.
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
        """The set, audio as bytes: ``datasets`` itself would decode it by torchcodec."""
        try:
            found = open_rows(self._path, self._config, self._split, self._streaming)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}; or use the published folders: dataset=libritts_local dataset.path=LibriTTS/test-clean"
            ) from error
        if not hasattr(found, "cast_column"):
            return found  # parquet, which holds bytes
        from datasets import Audio  # it is here, since what was found is its own

        return found.cast_column("audio", Audio(decode=False))

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
