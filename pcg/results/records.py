"""Finished batches on disk, so that a run that is killed at any moment can be continued."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.types import Utterance


class Records:
    """An append-only file of JSON lines, one for each finished batch. ``append`` returns when the line is on disk.

    If the process was killed while it wrote a line, that line is removed when the file is opened again, and its batch
    is decoded again.
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


def of_batches(lines: Iterable[Mapping[str, Any]], batches: Sequence[Sequence[Utterance]]) -> list[dict[str, Any]]:
    """The newest record of each batch, without records of other utterances or texts than the batch has now."""
    texts = [[(utterance.id, utterance.text) for utterance in batch] for batch in batches]
    return newest(
        line
        for line in lines
        if line["batch"] < len(batches)
        and [(row["utterance"], row["text"]) for row in line["rows"]] == texts[line["batch"]]
    )


def newest(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The newest record of each batch, in the dataset's order: a batch with failures may have been decoded again."""
    last = {line["batch"]: dict(line) for line in lines}
    return [last[index] for index in sorted(last)]


def peek(path: Path) -> list[dict[str, Any]]:
    """The finished lines of a file that another process may be writing; empty if there is no file."""
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
    """Write a file so that readers, also after a crash, find the old or the whole new content."""
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
    """Sync a folder's entries to disk, which syncing a file does not do."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
