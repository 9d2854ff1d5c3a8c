"""The bundled test set: sentences that no model was trained on, each with a voice prompt and a reference recording.

Made by ``pcg.training.pair.heldout``. Two parquet files: ``utterances.parquet`` (id, text, speaker, prompt_id,
audio) and ``voices.parquet`` (id, text, speaker, audio), audio being the bytes of a FLAC file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow

from pcg.constraints import Limit, checked
from pcg.data.audio import Recording
from pcg.data.stored import open_parquet
from pcg.types import Utterance


@checked
class Bundled:
    """The first ``limit`` utterances in a fixed order that alternates between the speakers.

    The compressed audio (8 MB) is in memory; a clip is decoded when it is loaded.

    Args:
        limit: first N utterances; None for all.
        folder: of the two files; None for those in the package.

    Raises:
        ValueError: the limit is below 1.
    """

    def __init__(self, limit: Limit = None, folder: str | None = None) -> None:
        with as_file(files("pcg.data") / "bundled") as bundled:
            root = Path(folder).expanduser() if folder else bundled
            self._rows = open_parquet(root / "utterances.parquet").read().slice(0, limit)
            self._voices = open_parquet(root / "voices.parquet").read()

    def __len__(self) -> int:
        return self._rows.num_rows

    def __iter__(self) -> Iterator[Utterance]:
        voices = {voice["id"]: (row, voice) for row, voice in enumerate(_without_audio(self._voices))}
        for row, record in enumerate(_without_audio(self._rows)):
            voice_row, voice = voices[record["prompt_id"]]
            yield Utterance(
                id=record["id"],
                text=record["text"],
                speaker=record["speaker"],
                prompt_text=voice["text"],
                load_prompt=Recording(partial(_bytes, self._voices, voice_row), f"voice {voice['id']}"),
                load_reference=Recording(partial(_bytes, self._rows, row), f"recording {record['id']}"),
            )


def _without_audio(table: pyarrow.Table) -> list[dict[str, str]]:
    return table.drop_columns("audio").to_pylist()


def _bytes(table: pyarrow.Table, row: int) -> bytes:
    return table["audio"][row].as_py()
