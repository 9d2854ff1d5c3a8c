"""What is finished, kept on disk so that a run killed at any moment goes on where it was."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.types import Utterance


class Records:
    """An append-only file of JSON lines, one a finished batch. ``append`` returns when the line is on the disk.

    A line that a kill cut short is cut off when the file is opened again: that batch is done anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        if not path.exists():
            path.touch()
            sync_folder(path.parent)
        whole = 0
        with path.open("r+b") as file:
            for line in file:
                record = _parse(line)
                if record is None:
                    break
                self.lines.append(record)
                whole += len(line)
            file.truncate(whole)

    def append(self, record: Mapping[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines.append(dict(record))


def latest(records: Records) -> list[dict[str, Any]]:
    """One record a batch, in the dataset's order: a batch with failures may have been done again."""
    return newest(records.lines)


def of_batches(lines: Iterable[Mapping[str, Any]], batches: Sequence[Sequence[Utterance]]) -> list[dict[str, Any]]:
    """The newest record of each batch that is of these very utterances; what is of other texts counts for none."""

    def is_of_its_batch(line: Mapping[str, Any]) -> bool:
        said = [(row["utterance"], row["text"]) for row in line["rows"]]
        return line["batch"] < len(batches) and said == [(each.id, each.text) for each in batches[line["batch"]]]

    return newest(filter(is_of_its_batch, lines))


def newest(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    last = {line["batch"]: dict(line) for line in lines}
    return [last[index] for index in sorted(last)]


def peek(path: Path) -> list[dict[str, Any]]:
    """The finished lines of a file that another process may be writing to; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return list(itertools.takewhile(lambda record: record is not None, map(_parse, file)))  # type: ignore[arg-type]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file as ``write_atomically`` does, into a folder that is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, which syncing a file does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
