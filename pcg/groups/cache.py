"""Built tables on disk, under a key of what they were built from."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcg.groups.table import GroupBuilder, GroupTable

log = logging.getLogger(__name__)
T = TypeVar("T")

_FORMAT = 2  # part of a table's key: raise it when a builder's answer changes
_TENSORS = 1  # likewise of a tensor's


def build_cached(
    builder: GroupBuilder,
    embeddings: Float[Tensor, "vocab dim"],
    groupable: Bool[Tensor, "vocab"] | None,
    folder: str | Path,
) -> GroupTable:
    """The builder's table, from ``folder`` if it was built before; written atomically if not.

    Two processes that build the same table at once both write it, and either's file is good. A file that cannot be
    read, or written, is warned of, and costs no more than the building.
    """
    key = key_of(builder, embeddings, groupable)
    path = file_of(key, folder)
    table = _read(path, lambda: _load(path, len(embeddings)))
    if table is not None:
        table.warn(f"{describe(builder)}, from the cache")
        return dataclasses.replace(table, key=key)
    table = builder.build(embeddings, groupable)
    log.info("built %s: %s", describe(builder), _in_words(table))
    _write(table.save, path)
    return dataclasses.replace(table, key=key)


def file_of(key: str, folder: str | Path) -> Path:
    """Where the table of a key is kept."""
    return Path(folder) / f"groups-{key}.safetensors"


def kept_tensor(name: str, make: Callable[[], Tensor], folder: str | Path | None) -> Tensor:
    """What ``make`` makes, kept in ``folder`` under a hash of ``name`` with the same care as tables; None: not kept."""
    if folder is None:
        return make()
    digest = hashlib.blake2b(f"{_TENSORS} {name}".encode(), digest_size=16).hexdigest()
    path = Path(folder) / f"tensor-{digest}.safetensors"
    made = _read(path, lambda: load_file(path)["kept"])
    if made is None:
        made = make()
        _write(lambda unfinished: save_file({"kept": made}, unfinished), path)
    return made


def _load(path: Path, vocab_size: int) -> GroupTable:
    table = GroupTable.load(path)
    if table.vocab_size != vocab_size:
        raise ValueError(f"it is over {table.vocab_size} tokens, not {vocab_size}")
    return table


def _read(path: Path, load: Callable[[], T]) -> T | None:
    """None where there is none, or what is there is broken."""
    try:
        return load() if path.exists() else None
    except Exception as error:  # however it is broken: torn, empty, of other tensors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.warning("%s cannot be read (%s): the groups are built anew", path, reason)
        return None


def _write(save: Callable[[str], None], path: Path) -> None:
    """All or nothing; where it is nothing, that is told."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".unfinished")
        os.close(handle)
        try:
            save(unfinished)
            os.replace(unfinished, path)
        finally:
            Path(unfinished).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        log.warning("%s: the groups are not kept for the next run (%s)", path.parent, error)


def _in_words(table: GroupTable) -> str:
    found = table.report()
    return (
        f"{found['groups']:,} groups, {found['mean_size']:.1f} tokens each, {found['max_size']:,} at most, "
        f"{found['singleton_share']:.0%} alone"
    )


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
    """``Cosine(theta=0.4, center=False)``, nested builders too; tables and tensors by their content.

    Fields without a ``repr`` are left out: parts of a run, which other fields tell.
    """
    if isinstance(value, Tensor):
        content = hashlib.blake2b(repr(value.tolist()).encode(), digest_size=16)
        return f"Tensor({content.hexdigest()})"
    if isinstance(value, GroupTable):
        content = hashlib.blake2b(value.members.cpu().numpy().tobytes(), digest_size=16)
        content.update(value.member_starts.cpu().numpy().tobytes())
        return f"GroupTable({content.hexdigest()})"
    if dataclasses.is_dataclass(value):
        fields = (f"{f.name}={describe(getattr(value, f.name))}" for f in dataclasses.fields(value) if f.repr)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(describe, value))}]"
    return repr(value)
