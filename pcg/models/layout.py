"""Chooses the quickest layout of the weights: measured once on each machine, for passes of one token and of five.

A pass of one is the target alone, a pass of five verifies four drafts; the layout with the smallest product of the two
times is chosen. Timed are passes through random layers of the model's sizes, as many as exceed the processor's cache;
the least of several times counts, so that other processes disturb it little. The times are logged and kept under
``$PCG_CACHE/kernels``; every result names its layouts.
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

from pcg.compiled import source
from pcg.files import cache_folder, replacing
from pcg.models.decoder import LlamaConfig
from pcg.models.layer_ops import LayerOps
from pcg.models.linear import Layout, layouts

PASSES = (1, 5)
_LONG = 400  # positions that a pass attends to
_BYTES, _COPIES, _REPEATS = 1 << 26, 32, 9  # of weights; layers at most; timings of each pass
log = logging.getLogger(__name__)


def choose(
    config: LlamaConfig, stored: torch.dtype, dtype: torch.dtype, device: torch.device, int8: bool = False
) -> Layout:
    """The quickest layout for a model's layers with torch's number of threads; measures it if no times are kept.

    Args:
        stored: the type of the checkpoint's weights.
        dtype: of the computation.
        int8: whether 8-bit integers will do. They read half of the bytes and are taken wherever they are supported.
    """
    config, threads = replace(config, layers=1), torch.get_num_threads()
    offered = layouts(config.head_dim, stored, dtype, device, threads)
    if int8 and "native" in offered:
        return "int8"
    if len(offered) == 1:
        return offered[0]
    conditions = config, stored, dtype, sorted(offered), threads, torch.__version__, _processor(), source()
    digest = hashlib.blake2b(repr(conditions).encode(), digest_size=8).hexdigest()
    file = cache_folder() / "kernels" / f"layout-{digest}.json"
    try:
        times: dict[Layout, list[float]] = json.loads(file.read_text())
        level = logging.DEBUG
    except (OSError, ValueError):
        times, level = measure(config, stored, dtype, offered), logging.INFO
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(times, indent=1) + "\n")
    chosen = min(times, key=lambda layout: math.prod(times[layout]))
    shown = ", ".join(f"{layout} {one:.2f} and {five:.2f}" for layout, (one, five) in times.items())
    log.log(level, "weights are laid out as %s; ms a layer for one token and for five: %s", chosen, shown)
    return chosen


@torch.inference_mode()
def measure(
    config: LlamaConfig, stored: torch.dtype, dtype: torch.dtype, offered: Sequence[Layout]
) -> dict[Layout, list[float]]:
    """Milliseconds of a layer of these sizes for each of ``PASSES``, by layout."""
    c, weights = config, _Random(stored)
    size = stored.itemsize * c.width * (2 * c.head_dim * (c.heads + c.kv_heads) + 3 * c.hidden)
    copies = max(2, min(_COPIES, _BYTES // size))
    times: dict[Layout, list[float]] = {}
    for layout in offered:  # one after another, so that memory never holds two copies
        ops = LayerOps(replace(c, layers=copies), dtype, torch.device("cpu"), layout)
        times[layout] = [1000 * _least(ops, weights, tokens) / copies for tokens in PASSES]
    return times


class _Random:
    """A source of random weights; tensors of one shape are the same."""

    def __init__(self, stored: torch.dtype) -> None:
        self._stored, self._tensors = stored, dict[tuple[int, ...], Tensor]()

    def tensor(self, _name: str, shape: tuple[int, ...] | None) -> Tensor:
        assert shape is not None
        if shape not in self._tensors:
            self._tensors[shape] = (0.02 * torch.randn(shape)).to(self._stored)
        return self._tensors[shape]


def _least(ops: LayerOps, weights: _Random, tokens: int) -> float:
    """The least seconds of a pass through layers of these weights."""
    layers = [ops.read_layer(weights, "") for _ in range(ops.config.layers)]
    capacity = min(ops.config.positions, _LONG + tokens)
    cache, passes = ops.cache(1, capacity), ops.passes(layers)
    cache.lengths = torch.tensor([capacity - tokens])
    x, norm = torch.ones(1, tokens, ops.config.width, dtype=ops.dtype), layers[0].attention_norm
    times: list[float] = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        if passes is not None:
            passes.through(x.clone(), norm, cache, None)
        else:
            span = ops.span(cache, tokens)
            for _ in ops.through(layers, x, span, span.memories(cache.states, ops.config.kv_heads)):
                pass
        times.append(time.perf_counter() - began)
    return min(times)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.processor())
