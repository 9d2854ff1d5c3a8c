"""The files of a finished run: ``utterances.parquet``, and ``result.json``, which is written last."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pcg.results.figures import measured, of_earlier, texts
from pcg.results.records import sync_folder, write_atomically
from pcg.results.rows import utterance_rows
from pcg.results.schema import MOVED, OWN_ENGINE, SCHEMA, WAITS
from pcg.types import Result

log = logging.getLogger("pcg")
NAME = "result.json"
FAILED = "failed.txt"  # why a run was given up; removed when it is started again


def read(folder: Path) -> Result | None:
    """The result in a run's folder; None if the run is not finished, or, with a warning, if its result is damaged.

    Raises:
        ValueError: the result has a schema that this version does not know.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # of JSON, or of UTF-8
        values = None
    if not isinstance(values, dict) or not values.keys() >= {"schema", "config", "quality", "speed", "counts"}:
        log.warning("%s", broken(path))
        return None
    if values.get("schema") not in range(1, SCHEMA + 1):
        raise ValueError(f"{path} has schema {values.get('schema')}, this version reads 1 to {SCHEMA}; move it away")
    return Result(str(folder), _with_later_keys(values))


def _with_later_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the keys that older schemas lack, as not measured. Their ``control``, now gone, is left as it
    is."""
    speeds = ("tokens_per_second_whole", "clock", *WAITS, *(f"{key}_ci95" for key in WAITS))
    distances = ("overshoot_unlikely", "overshoot_likely", *MOVED, "outside")
    return {
        "left_out": [],
        "engine": dict(OWN_ENGINE),
        "figures": {} if "figures" in values else of_earlier(values["quality"]),
        **values,
        "speed": {**dict.fromkeys(speeds), **values["speed"]},
        "counts": {"empty": None, "rival_accepted": None, **values["counts"]},
        "distortion": {**dict.fromkeys(distances), **values["distortion"]},
    }


def broken(path: Path) -> str:
    """The message for a result that ``read`` cannot read."""
    return f"{path} is empty or truncated; run the command of the run again, which writes it from the records beside it"


def read_study(folder: Path) -> list[Result]:
    """All finished runs of a study, in the order of their folders' names."""
    results = (read(path.parent) for path in sorted(folder.glob(f"*/{NAME}")))
    return [result for result in results if result is not None]


def write(folder: Path, values: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> Result:
    """Write the table of utterances, then the result; a crash between the two leaves the run unfinished."""
    partial = folder / "utterances.parquet.partial"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(utterance_rows(records)), partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(folder / "utterances.parquet")
    sync_folder(folder)
    write_atomically(folder / NAME, json.dumps(values, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return Result(str(folder), json.loads(json.dumps(values)))


def read_utterances(folder: Path) -> list[dict[str, Any]]:
    """The rows of ``utterances.parquet``.

    Raises:
        ValueError: the file is missing or truncated.
    """
    path = folder / "utterances.parquet"
    try:
        return read_rows(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"{path} is missing or truncated ({' '.join(str(error).split())}): remove {NAME} beside it and run the "
            "command of the run again, which writes both from the records"
        ) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file. ``read_table`` reads folders as well, for which it imports pandas."""
    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read().to_pylist()


def one_line(result: Result) -> str:
    """A run's main figures in one line, for the log of a sweep."""
    values = result.values
    acceptance, speed, quality = values["acceptance"], values["speed"], values["quality"]
    shown = [
        ("alpha {:.3f}", acceptance["alpha"]),
        ("tau {:.2f}", acceptance["tau"]),
        ("{:.0f} tokens/s", speed["tokens_per_second"] or speed["tokens_per_second_whole"]),
        ("{:.2f}x", speed["speedup"]),
        ("{}", "  ".join(texts(measured([values]), quality)) or None),
        ("{} empty", values["counts"]["empty"] or None),
        ("{} failed", len(values["failures"]) or None),
    ]
    figures = "  ".join(form.format(value) for form, value in shown if value is not None)
    return f"{values['label']}: {figures} -> {result.folder}"
