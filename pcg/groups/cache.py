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

    Two processes that build the same table at once both write it, and either's file is good.
    """
    path = Path(folder) / f"groups-{key_of(builder, embeddings, groupable)}.safetensors"
    if path.exists():
        table = GroupTable.load(path)
        table.warn(f"{describe(builder)}, from the cache")
        return table
    table = builder.build(embeddings, groupable)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, suffix=".unfinished")
    os.close(handle)
    try:
        table.save(unfinished)
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)
    log.info("built %s: %s", describe(builder), table.report())
    return table


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
