"""Speech that is stored as codes of a codec, without audio: local parquet, or a set of the hub."""

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

_LARGEST = 2**31 - 1  # code; a larger one would overflow 32 bits


@dataclass(frozen=True, eq=False)
class Coded:
    """The codes in a column of a row, read when called."""

    rows: Any
    index: int
    column: str
    source: str

    def __call__(self) -> np.ndarray:
        """The codes as int32.

        Raises:
            ValueError: the cell is not one row of whole numbers from 0 to 2,147,483,647.
        """
        codes = np.asarray(self.rows[self.index][self.column])
        if codes.ndim != 1 or not len(codes) or codes.dtype.kind not in "iu":
            raise ValueError(f"{self.source}: codes are {_described(codes)}; expected one row of whole numbers")
        wrong = codes[(codes < 0) | (codes > _LARGEST)]
        if len(wrong):
            raise ValueError(f"{self.source}: there is code {int(wrong[0])}; allowed: 0 to {_LARGEST:,}")
        return codes.astype(np.int32)


def _described(codes: np.ndarray) -> str:
    return f"of shape {codes.shape}, {codes.dtype}" if codes.size else "empty"


@checked
class Tokens:
    """Rows with a text and the codes of its speech, of one codebook. There is no audio, so nothing is encoded.

    The rows come from a parquet file, a folder of them, a folder written by ``save_to_disk``, or a hub id
    (``pcg.data.stored``). With streaming the first ``limit`` rows are read and held in memory.

    Args:
        path: file, folder or hub id.
        text, codes: columns of the text and of its codes; codes=null: there is no speech yet.
        voice: column of additional tokens of the voice (Spark-TTS); null: none.
        id, speaker: columns; null: rows are numbered, speakers are unknown.
        prompt_text, prompt_codes: columns of the voice prompt; null: no prompt.
        config: of a hub set that has several; null: its only one.
        split: ``train``, ...
        limit: first N rows; None for all.
        streaming: read only the first ``limit`` rows.

    Raises:
        ValueError: the limit is below 1, streaming has no limit, or half of a voice prompt is given; at first use, a
            file cannot be read, a column is missing, or a cell holds no text.
        FileNotFoundError: at first use, the set cannot be found.
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
            raise ValueError("streaming=true needs a limit, because the rows are held in memory")
        if (prompt_text is None) != (prompt_codes is None):
            raise ValueError("a voice prompt needs both columns, prompt_text and prompt_codes, or neither")
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
        texts = {key: text_of(row, columns[key], where) for key in ("text", "prompt_text") if key in columns}
        codes = {
            key: Coded(self._rows, index, columns[key], f"{where}, column {columns[key]}")
            for key in ("codes", "prompt_codes", "voice")
            if key in columns
        }
        return Utterance(
            id=name,
            text=texts["text"],
            speaker=str(row[columns["speaker"]]) if "speaker" in columns else "",
            prompt_text=texts.get("prompt_text", ""),
            load_prompt_codes=codes.get("prompt_codes"),
            load_codes=codes.get("codes"),
            load_voice=codes.get("voice"),
        )

    @cached_property
    def _rows(self) -> Any:
        rows = open_rows(self._path, self._config, self._split, self._streaming)
        self._refuse_missing(list(rows.column_names or next(iter(rows))))
        rows = rows.select_columns(list(self._columns.values()))
        return list(rows.take(self._limit)) if self._streaming else rows

    def _refuse_missing(self, existing: list[str]) -> None:
        problems = []
        for key, name in self._columns.items():
            if name not in existing:
                close = difflib.get_close_matches(name, existing, 1, 0.4)
                meant = f"; did you mean {close[0]!r}?" if close else ";"
                problems.append(f"{key}={name}: no such column{meant} there are: {', '.join(existing)}")
        if problems:
            raise ValueError(f"{self._path}: " + "\n".join(problems))
