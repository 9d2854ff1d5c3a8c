"""Which layout of the weights is quickest here: measured once a machine, for passes of one token and of five.

A pass of one is the target alone, a pass of five verifies four drafts: the layout is chosen whose two times have the
least product, so that neither is bought with the other. What is timed is passes through layers of the model's sizes, as
many as leave the processor's cache; the least of several times counts, so that neighbours disturb it little. What was
measured and chosen is told in the log and lies under ``$PCG_CACHE/kernels``; every result names its layouts.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from pcg.files import cache_folder
from pcg.models.blocks import Blocks, Layer
from pcg.models.decoder import LlamaConfig
from pcg.models.linear import Layout, layouts
from pcg.models.native import SOURCE

PASSES = (1, 5)
_LONG = 400  # tokens that a pass sees
_BYTES, _COPIES, _REPEATS = 1 << 26, 32, 9  # of weights; layers at most, and at least two; timings of each pass
log = logging.getLogger(__name__)


def choose(config: LlamaConfig, stored: torch.dtype, dtype: torch.dtype, device: torch.device) -> Layout:
    """The quickest layout for a model's layers with as many threads as torch has; measured where it never was.

    Args:
        stored: the type of the checkpoint's weights.
        dtype: of the computation.
    """
    config, threads = replace(config, layers=1), torch.get_num_threads()
    offered = layouts(config.head_dim, stored, dtype, device, threads)
    if len(offered) == 1:
        return offered[0]
    file = _file(config, stored, dtype, offered, threads)
    try:
        found: dict[Layout, list[float]] = json.loads(file.read_text())
        level = logging.DEBUG
    except (OSError, ValueError):
        found, level = measure(config, stored, dtype, offered), logging.INFO
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    chosen = min(found, key=lambda layout: math.prod(found[layout]))
    told = ", ".join(f"{layout} {one:.2f} and {five:.2f}" for layout, (one, five) in found.items())
    log.log(level, "weights are laid out as %s; ms a layer for one token and for five: %s", chosen, told)
    return chosen


@torch.inference_mode()
def measure(
    config: LlamaConfig, stored: torch.dtype, dtype: torch.dtype, offered: Sequence[Layout]
) -> dict[Layout, list[float]]:
    """Milliseconds of a layer of these sizes for each of ``PASSES``, by layout."""
    c, weights = config, _Random(stored)
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    size = stored.itemsize * c.width * (2 * queries + 2 * keys + 3 * c.hidden)
    copies = max(2, min(_COPIES, _BYTES // size))
    found: dict[Layout, list[float]] = {}
    for layout in offered:  # one after the other, so that no two copies of anything large are held
        blocks = Blocks(replace(c, layers=copies), dtype, torch.device("cpu"), layout)
        layers = [blocks.read_layer(weights, "") for _ in range(copies)]
        found[layout] = [1000 * _least(blocks, layers, tokens) / copies for tokens in PASSES]
    return found


class _Random:
    """What a layer is read from; tensors of one shape are one."""

    def __init__(self, stored: torch.dtype) -> None:
        self._stored, self._made = stored, dict[tuple[int, ...], Tensor]()

    def tensor(self, _name: str, shape: tuple[int, ...] | None) -> Tensor:
        assert shape is not None
        if shape not in self._made:
            self._made[shape] = (0.02 * torch.randn(shape)).to(self._stored)
        return self._made[shape]


def _least(blocks: Blocks, layers: Sequence[Layer], tokens: int) -> float:
    """Seconds of a pass through the layers, at the best."""
    capacity = min(blocks.config.positions, _LONG + tokens)
    cache, passes = blocks.cache(1, capacity), blocks.passes(layers)
    cache.lengths = torch.tensor([capacity - tokens])
    x, norm = torch.ones(1, tokens, blocks.config.width, dtype=blocks.dtype), layers[0].attention_norm
    times: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        if passes is not None:
            passes.through(x.clone(), norm, cache, None)
        else:
            span = blocks.span(cache, tokens)
            for _ in blocks.through(layers, x, span, span.memories(cache.states, blocks.config.kv_heads)):
                pass
        times.append(time.perf_counter() - began)
    return min(times)


def _file(
    config: LlamaConfig, stored: torch.dtype, dtype: torch.dtype, offered: Sequence[Layout], threads: int
) -> Path:
    """Where figures of this machine, torch and these sizes lie."""
    asked = config, stored, dtype, sorted(offered), threads, torch.__version__, _processor()
    digest = hashlib.blake2b(f"{asked}{SOURCE.read_text()}".encode(), digest_size=8).hexdigest()
    return cache_folder() / "kernels" / f"layout-{digest}.json"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
