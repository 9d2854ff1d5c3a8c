"""The groups of a run's rule: the table, built from vectors of a model or a codec, and its sizes."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.config.build import TARGET, build, constructor
from pcg.config.settings import SOURCES, Node
from pcg.config.validate import ConfigError, nearest
from pcg.files import cache_folder
from pcg.groups.by_slot import BySlot
from pcg.groups.cache import build_cached
from pcg.groups.table import GroupBuilder, GroupTable
from pcg.interfaces import Codec, SpeechModel

log = logging.getLogger(__name__)


def group_table(
    groups: Node,
    target: SpeechModel,
    draft: SpeechModel | None,
    codec: Codec | None,
    codec_node: Node | None,
    fingerprints: Mapping[str, str],
) -> GroupTable:
    """Groups over the speech vocabulary; only audio tokens are grouped, end-of-speech stays alone.

    Args:
        groups: the config of their builder, with the source of the vectors.
        codec_node: the config of the codec; with its fingerprints it is the key of sounds that are kept on disk.
        fingerprints: of the run (``pcg.config.fingerprint``).

    Raises:
        ConfigError: the source of the vectors, or the codec that the builder needs, is ``none``.
    """
    builder = {key: value for key, value in groups.items() if key != "source"}
    supplied = {"codec": codec, "codec_name": codec_name(codec_node, fingerprints), "cache": cache_folder()}
    if codec is None and "codec" in inspect.signature(constructor(groups[TARGET])).parameters:
        raise ConfigError([f"grouping.groups: {groups[TARGET]} needs a codec, and there is none (codec=none)"])
    vectors = embeddings_of(groups.get("source", "target_input"), target, draft, codec)
    groupable = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
    groupable[target.end] = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = build_cached(_by_slot(build(builder, **supplied), target), vectors, groupable, cache_folder())
    table.check(groupable)
    for warning in caught:
        log.warning("%s", warning.message)
    return table.to(target.device)


def _by_slot(builder: GroupBuilder, target: SpeechModel) -> GroupBuilder:
    """The builder; for a target with several tokens a frame, one that groups each slot apart.

    Raises:
        ConfigError: the builder needs a codec, which cannot decode one slot alone.
    """
    slots = getattr(getattr(target, "text", None), "slots", 1)
    if slots == 1:
        return builder
    if hasattr(builder, "codec"):
        name = type(builder).__name__
        raise ConfigError([f"grouping.groups: {name} decodes single tokens, and the target needs {slots} for a frame"])
    return BySlot(builder, slots)


def codec_name(node: Node | None, fingerprints: Mapping[str, str]) -> str:
    """A digest of the codec's config and weights."""
    weights = {key: value for key, value in fingerprints.items() if key.startswith("codec.")}
    text = json.dumps([node, weights], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def embeddings_of(
    source: str, target: SpeechModel, draft: SpeechModel | None, codec: Codec | None
) -> Float[Tensor, "vocab dim"]:
    """One vector a token of the speech vocabulary; a codec has none for end-of-speech, which gets zeros.

    Raises:
        ConfigError: an unknown source, or one of a codec or draft that is ``none``.
    """
    if source not in SOURCES:
        raise ConfigError([f"grouping.groups.source={source!r}: no such source{nearest(str(source), SOURCES)}"])
    if source == "codec":
        if codec is None:
            raise ConfigError(["grouping.groups.source=codec: there is no codec (codec=none)"])
        codebook = codec.codebook()
        return torch.cat([codebook, codebook.new_zeros(1, codebook.shape[1])])
    model, table = source.split("_")
    if model == "target":
        return target.embeddings(table)
    if draft is None:
        raise ConfigError([f"grouping.groups.source={source}: there is no draft (draft=none)"])
    return draft.embeddings(table)


def size_report(rule: object) -> dict[str, Any] | None:
    """``GroupTable.report`` with the table's key and a histogram of groups of 1, 2 to 3, 4 to 7, ... tokens; None
    without groups."""
    table = _table(rule)
    if table is None:
        return None
    counts = torch.bincount(table.sizes.cpu().double().log2().floor().long())
    edges = [2**power for power in range(len(counts) + 1)]
    return {**table.report(), "key": table.key, "histogram": {"edges": edges, "counts": counts.tolist()}}


def mean_sizes(rule: object) -> Float[Tensor, "vocab"] | None:
    """For each token ``sum_k w[k,t] |G_k|``: the mean size of the groups that hold it; a test draws one of them."""
    table = _table(rule)
    return None if table is None else table.spread(table.sizes.double()).cpu()


def _table(rule: object) -> GroupTable | None:
    return getattr(rule, "groups", None)
