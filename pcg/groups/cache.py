"""Built tables on disk, under a key of what they were built from."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from torch import Tensor

from pcg.groups.table import GroupBuilder, GroupTable

log = logging.getLogger(__name__)

_FORMAT = 1  # part of the key: raise it when a builder's answer changes


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
    path = Path(folder) / f"groups-{key_of(builder, embeddings, groupable)}.safetensors"
    table = _read(path, len(embeddings))
    if table is not None:
        table.warn(f"{describe(builder)}, from the cache")
        return table
    table = builder.build(embeddings, groupable)
    log.info("built %s: %s", describe(builder), _in_words(table))
    try:
        _write(table, path)
    except (OSError, SafetensorError) as error:
        log.warning("%s: the groups are not kept for the next run (%s)", path.parent, error)
    return table


def _read(path: Path, vocab_size: int) -> GroupTable | None:
    """None where there is none, or what is there is broken."""
    try:
        if not path.exists():
            return None
        table = GroupTable.load(path)
        if table.vocab_size != vocab_size:
            raise ValueError(f"it is over {table.vocab_size} tokens, not {vocab_size}")
        return table
    except Exception as error:  # however it is broken: torn, empty, of other tensors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        log.warning("%s cannot be read (%s): the groups are built anew", path, reason)
        return None


def _write(table: GroupTable, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".unfinished")
    os.close(handle)
    try:
        table.save(unfinished)
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


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
    """``Cosine(theta=0.4, center=False)``, nested builders too; a table by its content."""
    if isinstance(value, GroupTable):
        content = hashlib.blake2b(value.members.cpu().numpy().tobytes(), digest_size=16)
        content.update(value.member_starts.cpu().numpy().tobytes())
        return f"GroupTable({content.hexdigest()})"
    if dataclasses.is_dataclass(value):
        fields = (f"{f.name}={describe(getattr(value, f.name))}" for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(describe, value))}]"
    return repr(value)
