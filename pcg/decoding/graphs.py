"""Passes and rules as graphs of fixed shape: compiled once, and on a GPU replayed as one launch each.

No shape depends on data: rows are padded to a power of two and what a pass attends over likewise, and where each row
writes is a tensor on the device. What is put into a graph is what the models and rules do anyway, so the loops know
nothing of it. docs/gpu.md says what is proved of this without a GPU.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch._dynamo.callback import callback_handler
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.runtime.cache_dir_utils import default_cache_dir
from torch.nn.utils.rnn import pad_sequence

from pcg.decoding.clock import compiling
from pcg.decoding.tree import CandidateRule
from pcg.history import History
from pcg.interfaces import Drafted, Rule, StateRule, TokenLM
from pcg.models.blocks import Blocks, Memory, Span, check_room
from pcg.models.chain import chain
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.sampling import Randomness, Sampling, check_probabilities
from pcg.types import Verdict

LEAST = 256  # positions that a pass attends over, at least
MOST_GRAPHS = 256  # of one function; torch's own limit is 8
KERNELS = "TORCHINDUCTOR_CACHE_DIR"
log = logging.getLogger(__name__)


class Graphs:
    """Compiles functions of fixed shapes, and knows how long that took.

    Args:
        backend: of ``torch.compile``.
        strict: what cannot be compiled raises; else it is told once and goes on as it is.
        folder: where compiled kernels are kept between runs, unless ``TORCHINDUCTOR_CACHE_DIR`` says otherwise.
    """

    def __init__(
        self, device: torch.device, backend: Any = "inductor", folder: Path | None = None, strict: bool = True
    ) -> None:
        self.device, self._backend, self._strict = device, backend, strict
        self._made: dict[int, GraphedLM | GraphedEagle] = {}
        if folder is not None and os.environ.get(KERNELS) in (None, default_cache_dir()):  # which torch's import sets
            os.environ[KERNELS] = str(folder)
        _count_stalls()
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        replay = self.device.type == "cuda" and self._backend == "inductor"
        mode = "reduce-overhead" if replay else None
        graph = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend, mode=mode)
        failed: list[Exception] = []

        def call(*given: Any) -> Any:
            if failed:
                return function(*given)
            try:
                return graph(*given)
            except TorchDynamoException as error:  # before anything was run
                if self._strict:
                    raise
                failed.append(error)
                words = " ".join(str(error).split())[:300]
                log.warning("%s is not compiled, and goes on as it is: %s", function.__name__.strip("_"), words)
                return function(*given)

        return call

    def of_model(self, model: TokenLM) -> GraphedLM | GraphedEagle:
        """The model with graphs for passes.

        Raises:
            ValueError: it is of a kind without, or its weights are laid out for a CPU's own products.
        """
        if not isinstance(model, LlamaLM | EagleLM):
            raise ValueError(f"a {type(model).__name__} has no passes of fixed shape")
        if not model.is_plain:
            raise ValueError("weights that are packed for this CPU's own products are not compiled")
        if id(model) not in self._made:  # which holds the model, so that no other takes its id
            hold_still(model)
            self._made[id(model)] = GraphedLM(model, self) if isinstance(model, LlamaLM) else GraphedEagle(model, self)
        return self._made[id(model)]

    def of_rule(self, rule: Any) -> GraphedRule:
        """Raises ValueError for a rule that asks the model again or tests a tree."""
        if not isinstance(rule, Rule) or isinstance(rule, StateRule | CandidateRule):
            raise ValueError(f"{type(rule).__name__} is no rule of one graph")
        return GraphedRule(rule, self)


@cache
def _count_stalls() -> None:
    """Have torch tell what it compiles and records, from now on and once a process."""
    callback_handler.register_start_callback(compiling.begin)
    callback_handler.register_end_callback(compiling.end)


def bucket(size: int, least: int = 1, most: int | None = None) -> int:
    """The next power of two."""
    found = max(least, 1 << (size - 1).bit_length())
    return found if most is None else min(found, most)


@dataclass
class Buffers:
    """What graphs write, at addresses that stay: keys and values layer by layer, and the states that drafts read."""

    layers: list[Float[Tensor, "rows heads capacity dim"]]
    hidden: Float[Tensor, "rows reads room width"]

    @property
    def all(self) -> list[Tensor]:
        return [*self.layers, self.hidden]

    def of_rows(self, rows: int) -> Buffers:
        found = Buffers([each[:rows] for each in self.layers], self.hidden[:rows])
        hold_still(found.all)
        return found


class FixedCache:
    """A ``Cache`` whose rows are padded to a power of two; those beyond ``lengths`` are nobody's."""

    def __init__(self, buffers: Buffers, rows: int, reads: tuple[int, ...] = ()) -> None:
        self.lengths, self.reads = torch.zeros(rows, dtype=torch.int64), reads
        self._buffers = self.buffers = buffers
        self.target: Any = None  # of a draft that reads it, the target's cache
        self.own: Tensor | None = None  # and the draft's last state

    @property
    def rows(self) -> int:
        return len(self.buffers.hidden)

    @property
    def capacity(self) -> int:
        return self.buffers.layers[0].shape[2]

    def where(self, new: int) -> tuple[Int[Tensor, "rows"], int]:
        """Each row's length, on the device, and how far a pass of ``new`` tokens looks.

        Raises:
            ValueError: there is no room for them.
        """
        end = int(self.lengths.max()) + new
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} positions is full: {end} asked for")
        lengths = F.pad(self.lengths, (0, self.rows - len(self.lengths)))
        return lengths.to(self.buffers.hidden.device, non_blocking=True), bucket(end, LEAST, self.capacity)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Rows move up within the buffers; half of them are let go where that is enough."""
        on_device = rows.to(self.buffers.hidden.device)
        for each in self.buffers.all:
            each[: len(rows)] = each[on_device]
        self.lengths = self.lengths[rows.cpu()]
        self.buffers = self._buffers.of_rows(bucket(max(len(rows), 1)))
        if self.own is not None:
            self.own = padded(self.own[on_device], self.rows)


def hold_still(found: Any) -> None:
    """Say of every tensor in ``found`` and in what it is made of that it stays where it is.

    A graph that is replayed would copy any other input to a place of its own at every call: weights, tables, caches.
    """
    seen: set[int] = set()

    def walk(each: Any) -> None:
        if id(each) in seen:
            return
        seen.add(id(each))
        if isinstance(each, Tensor):
            torch._dynamo.mark_static_address(each)
        elif isinstance(each, partial):  # a product, with its weight
            walk(each.keywords)
        elif isinstance(each, dict | list | tuple):
            for inner in each.values() if isinstance(each, dict) else each:
                walk(inner)
        elif type(each).__module__.startswith("pcg."):
            walk(vars(each))

    walk(found)


def padded(rows: Tensor, count: int) -> Tensor:
    """``rows`` with zeros below, ``count`` in all."""
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, count - len(rows)))


def _memories(buffers: Buffers, kv_heads: int, span: Span) -> list[Memory]:
    return [(span.room(each), *each.narrow(2, 0, span.end).split(kv_heads, 1)) for each in buffers.layers]


class GraphedLM:
    """A ``LlamaLM`` whose passes are graphs. What else it has is the model's own."""

    def __init__(self, model: LlamaLM, graphs: Graphs) -> None:
        self.model, self._step, self._chain = model, graphs.compiled(_llama_step), graphs.compiled(_llama_chain)
        self._free: Free = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> FixedCache:
        """As the model's, without a graph: prompts are of any length."""
        llama = self.model.llama
        check_room(prompts, capacity, llama.config.positions)
        cache = fixed_cache(self._free, llama.blocks, len(prompts), capacity, reads)
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if ids.shape[1]:
            span = Span(0, ids.shape[1], None, llama.blocks.rope[: ids.shape[1], None], causal=ids.shape[1] > 1)
            buffers = cache.buffers.of_rows(len(prompts))
            llama.through(ids, span, _memories(buffers, llama.config.kv_heads, span), reads, buffers.hidden)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: FixedCache) -> Float[Tensor, "batch new vocab"]:
        lengths, end = cache.where(tokens.shape[1])
        logits = self._step(self.model, padded(tokens, cache.rows), lengths, cache.buffers, cache.reads, end)
        cache.lengths = cache.lengths + tokens.shape[1]
        return logits[: len(tokens)].clone()  # what a graph gives, its next replay overwrites

    @torch.inference_mode()
    def propose(
        self, latest: Int[Tensor, "batch unread"], cache: FixedCache, uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling, history: History | None,
    ) -> Drafted:  # fmt: skip
        return _propose(partial(self._chain, self.model), latest, cache, uniform, sampling, history)


def _propose(
    graph: Callable[..., Drafted], latest: Tensor, cache: FixedCache, uniform: Tensor, sampling: Sampling,
    history: History | None,
) -> Drafted:  # fmt: skip
    """What ``graph`` makes of the rows, padded, and of them alone."""
    count, new = len(latest), latest.shape[1] + uniform.shape[1] - 1
    lengths, end = cache.where(new)
    history = history and history.map(lambda part: padded(part, cache.rows))
    rows = padded(latest, cache.rows), padded(uniform, cache.rows), history
    tokens, probs, history = graph(*rows, sampling, lengths, cache.buffers, end)
    cache.lengths = cache.lengths + new
    return tokens[:count].clone(), probs[:count].clone(), history and history.map(lambda part: part[:count].clone())


def _llama_chain(
    model: LlamaLM, latest: Tensor, uniform: Tensor, history: History | None, sampling: Sampling,
    lengths: Tensor, buffers: Buffers, end: int,
) -> Drafted:  # fmt: skip
    def go(ids: Tensor, at: Tensor, _own: None) -> tuple[Tensor, None]:
        return _llama_step(model, ids, at, buffers, (), end), None

    return _chain(go, model.token_ids, latest, uniform, sampling, history, lengths)


def _chain(
    go: Callable[..., tuple[Tensor, Any]], token_ids: Callable[[Tensor], Tensor], latest: Tensor, uniform: Tensor,
    sampling: Sampling, history: History | None, lengths: Tensor,
) -> Drafted:  # fmt: skip
    """``chain`` of passes ``go(ids, where they are written, state of the last one)``, which give logits and state."""
    fed, own = 0, None

    def step(ids: Tensor) -> Tensor:
        nonlocal fed, own
        logits, own = go(ids, lengths + fed, own)
        fed += ids.shape[1]
        return logits[:, -1]

    return chain(step, token_ids, latest, uniform, sampling, history)


def _llama_step(
    model: LlamaLM, ids: Tensor, lengths: Tensor, buffers: Buffers, reads: tuple[int, ...], end: int
) -> Tensor:
    llama = model.llama
    span = llama.blocks.ragged_span(_places(lengths, ids.shape[1]), end)
    memories = _memories(buffers, llama.config.kv_heads, span)
    return model.head(llama.through(ids, span, memories, reads, buffers.hidden))


def _places(lengths: Int[Tensor, "rows"], new: int) -> Int[Tensor, "rows new"]:
    return lengths.unsqueeze(1) + torch.arange(new, device=lengths.device)


class GraphedEagle:
    """An ``EagleLM`` whose passes are graphs, over a target whose are."""

    def __init__(self, model: EagleLM, graphs: Graphs) -> None:
        self.model = model
        self._step, self._chain = graphs.compiled(_eagle_step), graphs.compiled(_eagle_chain)
        self._free: Free = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> FixedCache:
        """As the model's, without a graph."""
        self.model.check_states(target)
        check_room(prompts, capacity, self.model.config.positions)
        cache = fixed_cache(self._free, self.model.blocks, len(prompts), capacity)
        cache.target = target
        ids = padded(pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True), cache.rows)
        if ids.shape[1]:
            lengths, end = cache.where(ids.shape[1])
            _eagle_step(self.model, ids, lengths, cache.buffers, target.buffers.hidden, None, end)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: FixedCache) -> Float[Tensor, "batch new vocab"]:
        known = self.model.knows(cache.lengths, tokens.shape[1], cache.target)
        lengths, end = cache.where(tokens.shape[1])
        given = cache.buffers, cache.target.buffers.hidden, None if known else cache.own, end
        logits, own = self._step(self.model, padded(tokens, cache.rows), lengths, *given)
        cache.lengths, cache.own = cache.lengths + tokens.shape[1], own.clone()
        return logits[: len(tokens)].clone()

    @torch.inference_mode()
    def propose(
        self, latest: Int[Tensor, "batch unread"], cache: FixedCache, uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling, history: History | None,
    ) -> Drafted:  # fmt: skip
        """Begins where the target has been; what the draft's own state was before is not read."""
        assert self.model.knows(cache.lengths, latest.shape[1], cache.target)
        graph = partial(self._chain, self.model, cache.target.buffers.hidden)
        return _propose(graph, latest, cache, uniform, sampling, history)


def _eagle_chain(
    model: EagleLM, hidden: Tensor, latest: Tensor, uniform: Tensor, history: History | None, sampling: Sampling,
    lengths: Tensor, buffers: Buffers, end: int,
) -> Drafted:  # fmt: skip
    def go(ids: Tensor, at: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        return _eagle_step(model, ids, at, buffers, hidden, own, end)

    return _chain(go, model.token_ids, latest, uniform, sampling, history, lengths)


def _eagle_step(
    model: EagleLM, ids: Tensor, lengths: Tensor, buffers: Buffers, hidden: Tensor, own: Tensor | None, end: int
) -> tuple[Tensor, Tensor]:
    """A pass over positions where the target has been, or over the one after with the draft's own state for it."""
    places = _places(lengths, ids.shape[1])
    state = model.states(hidden, places - 1) if own is None else own
    span = model.blocks.ragged_span(places, end)
    [memory] = _memories(buffers, model.config.kv_heads, span)
    x = model.through(ids, state, span, memory)
    return model.logits(x), x[:, -1:]


class GraphedRule:
    """A ``Rule`` whose verdict is a graph."""

    def __init__(self, rule: Rule, graphs: Graphs) -> None:
        self.rule, self.graphs, self._verify = rule, graphs, graphs.compiled(_verify)
        if hasattr(rule, "groups"):
            rule.groups.derive()
        hold_still(rule)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_probabilities(draft_probs=draft_probs, target_probs=target_probs)
        assert randomness.streams is not None
        count = len(draft_tokens)
        given = [draft_tokens, draft_probs, target_probs, positions, randomness.streams]
        if count != bucket(count):  # with the last row again
            last = torch.arange(bucket(count), device=positions.device).clamp_(max=count - 1)
            given = [each[last] for each in given]
        verdict = self._verify(self.rule, *given)
        return Verdict(verdict.accepted[:count].clone(), verdict.token[:count].clone())


def _verify(
    rule: Rule, draft_tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, positions: Tensor, streams: Tensor
) -> Verdict:
    # its numbers are made in the graph, and are those that a table would hold; a seed would be a constant of the graph
    randomness = Randomness(0, streams, streams=streams)
    return rule.verify(draft_tokens, draft_probs, target_probs, positions, randomness)


Free = defaultdict[tuple[Any, ...], list[Buffers]]


def fixed_cache(free: Free, blocks: Blocks, rows: int, capacity: int, reads: tuple[int, ...] = ()) -> FixedCache:
    """One with room for ``capacity`` positions, in buffers that no other cache uses; they are free again with it."""
    c = blocks.config
    blocks.check_cache(capacity, reads)
    shape = (bucket(rows), 2 * c.kv_heads, bucket(capacity, LEAST, c.positions), c.head_dim)
    if not free[shape, reads]:
        free[shape, reads].append(_buffers(blocks, shape, len(reads)))
    buffers = free[shape, reads].pop()
    for each in buffers.all:
        each.zero_()  # a masked NaN is still NaN
    cache = FixedCache(buffers, rows, reads)
    weakref.finalize(cache, free[shape, reads].append, buffers)
    return cache


def _buffers(blocks: Blocks, shape: tuple[int, ...], reads: int) -> Buffers:
    """Zeros, at addresses that graphs may count on."""
    kind: dict[str, Any] = {"dtype": blocks.dtype, "device": blocks.device}
    hidden = (shape[0], reads, shape[2] if reads else 0, blocks.config.width)
    made = Buffers([torch.zeros(shape, **kind) for _ in range(blocks.config.layers)], torch.zeros(hidden, **kind))
    hold_still(made.all)
    return made
