"""Speech that is stored as a codec's tokens, without audio: parquet of one's own, or rows of the hub."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pcg.constraints import Limit, checked
from pcg.data.stored import open_rows, text_of
from pcg.types import Utterance

_LARGEST = 2**31 - 1  # code; what is larger would become another one in 32 bits


@dataclass(frozen=True, eq=False)
class Coded:
    """The codes in a column of a row, read when asked for."""

    rows: Any
    index: int
    column: str
    source: str

    def __call__(self) -> np.ndarray:
        """int32. Raises ValueError for anything but one row of whole numbers from 0 to 2,147,483,647."""
        codes = np.asarray(self.rows[self.index][self.column])
        if codes.ndim != 1 or not len(codes) or codes.dtype.kind not in "iu":
            raise ValueError(f"{self.source}: codes are {_described(codes)}, want one row of whole numbers")
        wrong = codes[(codes < 0) | (codes > _LARGEST)]
        if len(wrong):
            raise ValueError(f"{self.source}: holds {int(wrong[0])}, and codes go from 0 to {_LARGEST:,}")
        return codes.astype(np.int32)


def _described(codes: np.ndarray) -> str:
    return f"of shape {codes.shape}, {codes.dtype}" if codes.size else "empty"


@checked
class Tokens:
    """Rows with a text and the codes of it spoken, of one codebook. There is no audio, so nothing is encoded.

    A parquet file, a folder of them, what ``datasets`` saved, or a hub id (``pcg.data.stored``); what is streamed is
    read from the beginning, and the first ``limit`` rows are kept in memory. Rows without text or codes are refused.

    Args:
        path: file, folder or hub id.
        text, codes: the columns of the text, and of the codes; codes null: texts that nobody has spoken yet.
        voice: column of tokens that tell the voice besides (Spark-TTS); null without.
        id, speaker: columns; null: rows are numbered, speakers are unknown.
        prompt_text, prompt_codes: columns of the voice prompt; null: texts are spoken in no given voice.
        config: of a hub set that has several; null: its only one.
        split: ``train``, ...
        limit: first N rows; None for all.
        streaming: read no more than the limit needs.

    Raises:
        ValueError: a limit below 1, streaming without one, half a voice prompt; when first read, a file that cannot be
            read, a column that is not there, a cell that is no text.
        FileNotFoundError: when first read, where the set is neither here nor to be had.
    """

    def __init__(
        self,
        path: str,
        text: str = "text",
        codes: str | None = "codes",
        id: str | None = None,
        speaker: str | None = None,
        prompt_text: str | None = None,
        prompt_codes: str | None = None,
        voice: str | None = None,
        config: str | None = None,
        split: str = "train",
        limit: Limit = None,
        streaming: bool = False,
    ) -> None:
        if streaming and limit is None:
            raise ValueError("streaming: needs a limit, or all of the set would be kept in memory")
        if (prompt_text is None) != (prompt_codes is None):
            raise ValueError("prompt_text and prompt_codes: a voice prompt needs both columns, or neither")
        self._path, self._config, self._split = path, config, split
        self._limit, self._streaming = limit, streaming
        named = {
            "text": text, "codes": codes, "id": id, "speaker": speaker, "prompt_text": prompt_text,
            "prompt_codes": prompt_codes, "voice": voice,
        }  # fmt: skip
        self._columns = {key: column for key, column in named.items() if column is not None}

    def __len__(self) -> int:
        return len(self._rows) if self._limit is None else min(self._limit, len(self._rows))

    def __iter__(self) -> Iterator[Utterance]:
        return map(self._utterance, range(len(self)))

    def _utterance(self, index: int) -> Utterance:
        columns, row = self._columns, self._rows[index]
        name = str(row[columns["id"]]) if "id" in columns else f"{Path(self._path).stem}-{index:07d}"
        where = f"row {index} ({name}) of {self._path}"
        said = {key: text_of(row, columns[key], where) for key in ("text", "prompt_text") if key in columns}
        coded = {
            key: Coded(self._rows, index, columns[key], f"{where}, column {columns[key]}")
            for key in ("codes", "prompt_codes", "voice")
            if key in columns
        }
        return Utterance(
            id=name,
            text=said["text"],
            speaker=str(row[columns["speaker"]]) if "speaker" in columns else "",
            prompt_text=said.get("prompt_text", ""),
            load_prompt_codes=coded.get("prompt_codes"),
            load_codes=coded.get("codes"),
            load_voice=coded.get("voice"),
        )

    @cached_property
    def _rows(self) -> Any:
        rows = open_rows(self._path, self._config, self._split, self._streaming)
        self._refuse_missing(list(rows.column_names or next(iter(rows))))
        rows = rows.select_columns(list(self._columns.values()))
        return list(rows.take(self._limit)) if self._streaming else rows

    def _refuse_missing(self, there: list[str]) -> None:
        problems = []
        for key, name in self._columns.items():
            if name not in there:
                close = difflib.get_close_matches(name, there, 1, 0.4)
                meant = f"; did you mean {close[0]!r}?" if close else ";"
                problems.append(f"{key}={name}: no such column{meant} there are: {', '.join(there)}")
        if problems:
            raise ValueError(f"{self._path}: " + "\n".join(problems))
