"""Built tables and other tensors on disk, under a hash of what they were built from."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcg.files import replacing
from pcg.groups.table import GroupBuilder, GroupTable

log = logging.getLogger(__name__)
T = TypeVar("T")

_FORMAT = 2  # part of a table's key; raise it when a builder returns another table
_TENSORS = 1  # part of a tensor's key


def build_cached(
    builder: GroupBuilder,
    embeddings: Float[Tensor, "vocab dim"],
    groupable: Bool[Tensor, "vocab"] | None,
    folder: str | Path,
) -> GroupTable:
    """The builder's table: read from ``folder`` if it was built before, else built and written there atomically.

    Two processes may build the same table at once; both write it, and either file is good. If a file cannot be read or
    written, a warning says so and the table is built.
    """
    key = key_of(builder, embeddings, groupable)
    path = file_of(key, folder)
    table = _read(path, lambda: _load(path, len(embeddings)))
    if table is not None:
        table.warn(f"{describe(builder)}, from the cache")
        return dataclasses.replace(table, key=key)
    table = builder.build(embeddings, groupable)
    log.info("built %s: %s", describe(builder), table.in_words())
    _write(table.save, path)
    return dataclasses.replace(table, key=key)


def file_of(key: str, folder: str | Path) -> Path:
    """Where the table of a key is kept."""
    return Path(folder) / f"groups-{key}.safetensors"


def cached_tensor(name: str, make: Callable[[], Tensor], folder: str | Path | None) -> Tensor:
    """The tensor that ``make`` returns, cached as tables are under a hash of ``name``; not cached without a folder."""
    if folder is None:
        return make()
    digest = hashlib.blake2b(f"{_TENSORS} {name}".encode(), digest_size=16).hexdigest()
    path = Path(folder) / f"tensor-{digest}.safetensors"
    tensor = _read(path, lambda: load_file(path)["kept"])
    if tensor is None:
        tensor = make()
        _write(lambda unfinished: save_file({"kept": tensor}, unfinished), path)
    return tensor


def _load(path: Path, vocab_size: int) -> GroupTable:
    table = GroupTable.load(path)
    if table.vocab_size != vocab_size:
        raise ValueError(f"the groups are over {table.vocab_size} tokens, not {vocab_size}")
    return table


def _read(path: Path, load: Callable[[], T]) -> T | None:
    """The file's content; None if there is no file or it is broken."""
    try:
        return load() if path.exists() else None
    except Exception as error:  # truncated, empty, of other tensors: any kind of damage
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.warning("%s cannot be read (%s); it is built again", path, reason)
        return None


def _write(save: Callable[[Path], None], path: Path) -> None:
    """Write the whole file or none; a warning says if it could not be written."""
    try:
        with replacing(path) as unfinished:
            save(unfinished)
    except (OSError, SafetensorError) as error:
        log.warning("%s cannot be written (%s); the next run builds the groups again", path.parent, error)


def key_of(
    builder: GroupBuilder, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None
) -> str:
    """A hash of the embedding bytes, the mask, the builder and its parameters."""
    head = f"{_FORMAT} {describe(builder)} {embeddings.dtype} {tuple(embeddings.shape)}"
    digest = hashlib.blake2b(head.encode(), digest_size=16)
    for rows in embeddings.detach().cpu().split(4096):
        digest.update(rows.contiguous().view(torch.uint8).numpy())
    digest.update(b"all" if groupable is None else groupable.cpu().numpy().tobytes())
    return digest.hexdigest()


def describe(value: object) -> str:
    """``Cosine(theta=0.4, center=False)``, including nested builders; a tensor by a digest of its content.

    Fields without ``repr`` are left out: what they hold is named by other fields.
    """
    if isinstance(value, Tensor):
        content = hashlib.blake2b(repr(value.tolist()).encode(), digest_size=16)
        return f"Tensor({content.hexdigest()})"
    if dataclasses.is_dataclass(value):
        fields = (f"{f.name}={describe(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.repr)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(describe, value))}]"
    return repr(value)
