"""Digests of all bytes of files. Each file is read once.

A digest is remembered by the file's path, size, inode and times in nanoseconds. One of them is the time of the last
change to the inode, which ``touch -d``, ``tar`` and ``rsync -t`` cannot set back. So a file that was replaced is read
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import time
from collections.abc import Callable
from pathlib import Path

from pcg.files import cache_folder, replacing

_WORTH_KEEPING = 16 * 2**20  # bytes from which a file's digests are kept on disk, for the next process
_SETTLED = 2 * 10**9  # nanoseconds after a change within which another change may have the same time
_BLOCK = 2**24

Stamp = tuple[str, int, int, int, int]
_known: dict[tuple[Stamp, str], dict[str, str]] = {}


def stamp(file: Path) -> Stamp:
    """Real path, size, inode and times of the last changes in nanoseconds; these change whenever the file does."""
    stat = file.stat()
    return str(file.resolve()), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns


def of_file(file: Path) -> str:
    """32 hexadecimal digits of all bytes of a file."""
    return _remembered(file, "bytes", _of_bytes)["bytes"]


def of_tensors(file: Path) -> dict[str, str]:
    """By name of each tensor of a safetensors file, 32 hexadecimal digits of its type, shape and numbers.

    Raises:
        ValueError: the file's header cannot be read.
    """
    return _remembered(file, "tensors", _of_tensors)


def _remembered(file: Path, kind: str, read: Callable[[Path], dict[str, str]]) -> dict[str, str]:
    before = stamp(file)
    if (before, kind) in _known:
        return _known[before, kind]
    on_disk = cache_folder() / "digests" / hashlib.blake2b(repr((before, kind)).encode(), digest_size=16).hexdigest()
    is_large = before[1] >= _WORTH_KEEPING
    digests = _from_disk(on_disk) if is_large else None
    if digests is None:
        digests = read(file)
        if time.time_ns() - max(before[3:]) < _SETTLED or stamp(file) != before:
            return digests  # the file may be written to right now
        if is_large:
            _to_disk(on_disk, digests)
    _known[before, kind] = digests
    return digests


def _from_disk(file: Path) -> dict[str, str] | None:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _to_disk(file: Path, digests: dict[str, str]) -> None:
    """Write digests, all or nothing. Where the folder cannot be written to the file is read again next time."""
    with contextlib.suppress(OSError), replacing(file) as unfinished:
        unfinished.write_text(json.dumps(digests))


def _of_bytes(file: Path) -> dict[str, str]:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return {"bytes": digest.hexdigest()}


def _of_tensors(file: Path) -> dict[str, str]:
    """A safetensors file is the header's length in 8 bytes, the header in JSON, and the tensors at its offsets."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            start = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(content[8:start])
            header.pop("__metadata__", None)
            digests = {}
            for name, tensor in header.items():
                digest = hashlib.blake2b(repr((tensor["dtype"], tensor["shape"])).encode(), digest_size=16)
                first, last = tensor["data_offsets"]
                for block in range(start + first, start + last, _BLOCK):
                    digest.update(content[block : min(block + _BLOCK, start + last)])
                digests[name] = digest.hexdigest()
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is truncated or not safetensors ({error}): fetch it again") from error
    return digests
