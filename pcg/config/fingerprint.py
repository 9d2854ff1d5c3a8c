"""What lies at the paths that a config names: a model that was trained further is another model under the same name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pcg.models.checkpoint import resolve_folder
from pcg.models.hub import is_hub_id

_BLOCK, _BLOCKS = 4096, 256  # of a large file 1 MB is read; training changes every weight


def fingerprints(run: Mapping[str, Any]) -> dict[str, str]:
    """By dotted key, ten hexadecimal digits of the content at each ``path`` of a config.

    A file counts, and the safetensors of a folder. Folders without any (recordings), hub ids (their revision is in the
    config) and what is not there are left out.
    """
    return {key: found for key, path in _paths(run, "") if (found := _content(path)) is not None}


def _paths(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
        elif key == "path" and isinstance(value, str):
            yield prefix + key, value


def _content(path: str) -> str | None:
    if is_hub_id(path):
        return None
    place = resolve_folder(path)
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    if not files:
        return None
    digest = hashlib.blake2b(digest_size=5)
    for file in files:
        stat = file.stat()
        digest.update(_sampled(file, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _sampled(file: Path, size: int, _changed: int) -> bytes:
    """Digest of a file's size and of blocks spread evenly over it, all of it where it is small."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    step = max(_BLOCK, size // _BLOCKS)
    with file.open("rb") as content:
        for start in range(0, size, step):
            content.seek(start)
            digest.update(content.read(_BLOCK))
    return digest.digest()
