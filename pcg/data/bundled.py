"""The bundled test set: sentences that no model was trained on, each with a voice prompt and a reference recording.

Made by ``pcg.training.pair.heldout``. Two parquet files: ``utterances.parquet`` (id, text, speaker, prompt_id,
audio) and ``voices.parquet`` (id, text, speaker, audio), audio being the bytes of a FLAC file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path

from pcg.constraints import Limit, checked
from pcg.data.audio import Recording
from pcg.data.stored import ParquetRows
from pcg.types import Utterance


@checked
class Bundled:
    """The first ``limit`` utterances in a fixed order that alternates between the speakers.

    The audio (8 MB) is read when the first clip is loaded, and a clip is decoded when it is.

    Args:
        limit: first N utterances; None for all.
        folder: of the two files; None for those in the package.

    Raises:
        ValueError: the limit is below 1.
    """

    def __init__(self, limit: Limit = None, folder: str | None = None) -> None:
        root = Path(folder).expanduser() if folder else Path(str(files("pcg.data"))) / "bundled"
        self._rows, self._voices = (ParquetRows([root / f"{name}.parquet"]) for name in ("utterances", "voices"))
        self._limit = limit

    def __len__(self) -> int:
        return min(len(self._rows), self._limit or len(self._rows))

    def __iter__(self) -> Iterator[Utterance]:
        voices = {voice["id"]: (voice, recording) for voice, recording in _recorded(self._voices, "voice")}
        for row, recording in islice(_recorded(self._rows, "recording"), self._limit):
            voice, voice_recording = voices[row["prompt_id"]]
            yield Utterance(
                id=row["id"],
                text=row["text"],
                speaker=row["speaker"],
                prompt_text=voice["text"],
                load_prompt=voice_recording,
                load_reference=recording,
            )


def _recorded(rows: ParquetRows, kind: str) -> Iterator[tuple[dict[str, str], Recording]]:
    """Each row without its audio, and its recording."""
    audio = rows.select_columns("audio")
    for index, row in enumerate(rows.remove_columns("audio")):
        yield row, Recording(partial(_bytes, audio, index), f"{kind} {row['id']}")


def _bytes(audio: ParquetRows, index: int) -> bytes:
    return audio[index]["audio"]
