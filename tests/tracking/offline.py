"""Reads an offline run of W&B back from its own file, as `wandb sync` would."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def records(folder: Path) -> list[Any]:
    """The records of an offline run. W&B writes the last of them milliseconds after its ``finish`` has returned."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(500):
        found = _parsed(path.read_bytes())
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.02)
    raise AssertionError(f"{path} does not end")


def _parsed(data: bytes) -> list[Any]:
    """7 bytes of header, then blocks of 32 KiB of (crc, length, type, data); a part still being written ends it."""
    whole, found = b"", []
    for kind, chunk in _chunks(data):
        whole += chunk
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def _chunks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, block = 7, 32_768
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):
            return
        yield kind, data[at + 7 : at + 7 + length]
        at += 7 + length


def items(updates: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in updates}


def artifacts(found: Iterable[Any]) -> dict[str, dict[str, Path]]:
    """By type: where each file of an artifact is staged until it is synced."""
    staged: dict[str, dict[str, Path]] = {}
    for record in found:
        if record.WhichOneof("record_type") == "artifact":
            entries = {entry.path: Path(entry.local_path) for entry in record.artifact.manifest.contents}
            staged.setdefault(record.artifact.type, {}).update(entries)
    return staged


def history(folder: Path) -> list[dict[str, Any]]:
    """The steps of utterances, in order; that of the table is left out."""
    found = [record.history for record in records(folder) if record.WhichOneof("record_type") == "history"]
    steps = [{**items(one.item), "step": one.step.num} for one in found]
    return [step for step in steps if "utterance/batch" in step]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for record in records(folder):
        found |= items(record.summary.update)
    return found


def exit_code(folder: Path) -> int:
    return records(folder)[-1].exit.exit_code
