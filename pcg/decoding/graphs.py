"""Passes and rules as graphs of fixed shape: compiled once, and on a GPU replayed as one launch each.

No shape depends on data: rows are padded to a power of two, so is the number of positions that a pass attends to, and
the positions that each row writes are a tensor on the device. A graph holds what the models and rules do anyway, so
the decode loops know nothing of it. docs/gpu.md says what of this is proved without a GPU.
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
from pcg.models.cache import check_room
from pcg.models.chain import chain
from pcg.models.eagle import EagleLM
from pcg.models.layer_ops import Span
from pcg.models.llama import LlamaLM
from pcg.sampling import Randomness, Sampling, check_probabilities
from pcg.types import Verdict

LEAST = 256  # positions that a pass attends to, at least
MOST_GRAPHS = 256  # of one function; torch's own limit is 8
KERNELS = "TORCHINDUCTOR_CACHE_DIR"
log = logging.getLogger(__name__)


class Graphs:
    """Compiles functions of fixed shapes; ``pcg.decoding.clock.compiling`` counts the seconds that this takes.

    Args:
        backend: of ``torch.compile``.
        strict: whether a function that cannot be compiled raises; otherwise one warning is logged and it runs as it is.
        folder: where compiled kernels are kept between runs, unless ``TORCHINDUCTOR_CACHE_DIR`` is set.
    """

    def __init__(
        self, device: torch.device, backend: Any = "inductor", folder: Path | None = None, strict: bool = True
    ) -> None:
        self.device, self._backend, self._strict = device, backend, strict
        self._graphed: dict[int, GraphedModel] = {}
        if folder is not None and os.environ.get(KERNELS) in (None, default_cache_dir()):  # which torch's import sets
            os.environ[KERNELS] = str(folder)
        _count_stalls()
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        replay = self.device.type == "cuda" and self._backend == "inductor"
        mode = "reduce-overhead" if replay else None
        graph = torch.compile(function, fullgraph=True, dynamic=False, backend=self._backend, mode=mode)
        failed: list[Exception] = []

        def call(*arguments: Any) -> Any:
            if failed:
                return function(*arguments)
            try:
                return graph(*arguments)
            except TorchDynamoException as error:  # before anything was run
                if self._strict:
                    raise
                failed.append(error)
                reason = " ".join(str(error).split())[:300]
                log.warning("%s is not compiled and runs as it is: %s", function.__name__.strip("_"), reason)
                return function(*arguments)

        return call

    def of_model(self, model: TokenLM) -> GraphedModel:
        """The model with graphs for its passes.

        Raises:
            ValueError: it is of a kind that has none, or its products are not torch's own.
        """
        if not isinstance(model, LlamaLM | EagleLM):
            raise ValueError(f"a {type(model).__name__} has no passes of fixed shape")
        if getattr(model, "budget", None) is not None:
            raise ValueError("draft.budget removes entries of the draft's cache, which cannot be compiled")
        if not model.is_plain:
            raise ValueError(
                f"weights in the {model.layout} layout are multiplied outside torch, which cannot be compiled"
            )
        if id(model) not in self._graphed:  # which holds the model, so that no other gets its id
            hold_still(model)
            self._graphed[id(model)] = GraphedModel(model, self)
        return self._graphed[id(model)]

    def of_rule(self, rule: Any) -> GraphedRule:
        """Raises ValueError for a rule that asks the model again or tests a tree."""
        if not isinstance(rule, Rule) or isinstance(rule, StateRule | CandidateRule):
            raise ValueError(f"{type(rule).__name__} cannot be compiled as one graph")
        return GraphedRule(rule, self)


@cache
def _count_stalls() -> None:
    """Have torch report when it compiles and records, once a process."""
    callback_handler.register_start_callback(compiling.begin)
    callback_handler.register_end_callback(compiling.end)


def bucket(size: int, least: int = 1, most: int | None = None) -> int:
    """The next power of two, within the limits."""
    power = max(least, 1 << (size - 1).bit_length())
    return power if most is None else min(power, most)


@dataclass
class Buffers:
    """What graphs write, at fixed addresses: keys and values layer by layer, and the states that drafts read."""

    layers: list[Float[Tensor, "rows heads capacity dim"]]
    hidden: Float[Tensor, "rows reads room width"]

    @property
    def all(self) -> list[Tensor]:
        return [*self.layers, self.hidden]

    def of_rows(self, rows: int) -> Buffers:
        """Views of the first rows."""
        views = Buffers([layer[:rows] for layer in self.layers], self.hidden[:rows])
        hold_still(views.all)
        return views


class FixedCache:
    """A ``Cache`` whose rows are padded to a power of two; rows beyond ``lengths`` are unused.

    Attributes:
        target: of a draft that reads the target's states, the target's cache.
        own: of such a draft, its last state.
    """

    def __init__(self, buffers: Buffers, rows: int, reads: tuple[int, ...], target: FixedCache | None) -> None:
        self.lengths, self.reads = torch.zeros(rows, dtype=torch.int64), reads
        self._buffers = self.buffers = buffers
        self.target, self.own = target, None

    @property
    def rows(self) -> int:
        return len(self.buffers.hidden)

    @property
    def capacity(self) -> int:
        return self.buffers.layers[0].shape[2]

    @property
    def target_states(self) -> Float[Tensor, "rows reads room width"] | None:
        return None if self.target is None else self.target.buffers.hidden

    def room(self, new: int) -> tuple[Int[Tensor, "rows"], int]:
        """Each row's length, on the device, and how many positions a pass of ``new`` tokens attends to.

        Raises:
            ValueError: there is no room for them.
        """
        end = int(self.lengths.max()) + new
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} positions is full: {end} asked for")
        lengths = F.pad(self.lengths, (0, self.rows - len(self.lengths)))
        return lengths.to(self.buffers.hidden.device, non_blocking=True), bucket(end, LEAST, self.capacity)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Move the rows up within the buffers; the lower half of the buffers is given up where the upper suffices."""
        on_device = rows.to(self.buffers.hidden.device)
        for buffer in self.buffers.all:
            buffer[: len(rows)] = buffer[on_device]
        self.lengths = self.lengths[rows.cpu()]
        self.buffers = self._buffers.of_rows(bucket(max(len(rows), 1)))
        if self.own is not None:
            self.own = padded(self.own[on_device], self.rows)


def hold_still(root: Any) -> None:
    """Mark every tensor in ``root``, and in what it is made of, as one whose address does not change.

    A graph that is replayed copies any other input at every call: weights, tables and caches must not be copied.
    """
    seen: set[int] = set()

    def walk(item: Any) -> None:
        if id(item) in seen:
            return
        seen.add(id(item))
        if isinstance(item, Tensor):
            torch._dynamo.mark_static_address(item)
        elif isinstance(item, partial):  # a product, with its weight
            walk(item.keywords)
        elif isinstance(item, dict | list | tuple):
            for inner in item.values() if isinstance(item, dict) else item:
                walk(inner)
        elif type(item).__module__.startswith("pcg."):
            walk(vars(item))

    walk(root)


def padded(rows: Tensor, count: int) -> Tensor:
    """``rows`` with zeros below, ``count`` in all."""
    return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, count - len(rows)))


class GraphedModel:
    """A ``LlamaLM`` or ``EagleLM`` whose passes and blocks are graphs; all other attributes are the model's own."""

    def __init__(self, model: LlamaLM | EagleLM, graphs: Graphs) -> None:
        self.model, self._forward, self._block = model, graphs.compiled(_forward), graphs.compiled(_block)
        self._free: defaultdict[tuple[Any, ...], list[Buffers]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> FixedCache:
        """As the model's own, without a graph: prompts are of any length."""
        if isinstance(self.model, EagleLM):
            self.model.check_states(target)
        check_room(prompts, capacity, self.model.ops.config.positions)
        cache = self._cache(len(prompts), capacity, reads, target if isinstance(self.model, EagleLM) else None)
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if length := ids.shape[1]:
            span = Span(0, length, None, self.model.ops.rope[:length, None], causal=length > 1)
            positions = torch.arange(length, device=ids.device).expand(len(prompts), -1)
            target_states = None if cache.target_states is None else cache.target_states[: len(prompts)]
            _states(self.model, ids, positions, span, cache.buffers.of_rows(len(prompts)), reads, target_states, None)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    def _cache(self, rows: int, capacity: int, reads: tuple[int, ...], target: FixedCache | None) -> FixedCache:
        """One with room for ``capacity`` positions, in buffers that no other cache uses until it is deleted."""
        ops, config = self.model.ops, self.model.ops.config
        ops.check_reads(reads)
        shape = bucket(rows), 2 * config.kv_heads, bucket(capacity, LEAST, config.positions), config.head_dim
        if not (free := self._free[shape, reads]):
            kind: dict[str, Any] = {"dtype": ops.dtype, "device": ops.device}
            hidden = torch.zeros(shape[0], len(reads), shape[2] if reads else 0, config.width, **kind)
            free.append(Buffers([torch.zeros(shape, **kind) for _ in range(config.layers)], hidden))
            hold_still(free[-1].all)
        buffers = free.pop()
        for buffer in buffers.all:
            buffer.zero_()  # a masked NaN is still NaN
        cache = FixedCache(buffers, rows, reads, target)
        weakref.finalize(cache, free.append, buffers)
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: FixedCache) -> Float[Tensor, "batch new vocab"]:
        own = None if self._reads_target(cache, tokens.shape[1]) else cache.own
        lengths, end = cache.room(tokens.shape[1])
        ids = padded(tokens, cache.rows)
        logits, last = self._forward(
            self.model, ids, lengths, cache.buffers, cache.reads, cache.target_states, own, end
        )
        cache.lengths = cache.lengths + tokens.shape[1]
        cache.own = None if last is None else last.clone()  # what a graph returns, its next replay overwrites
        return logits[: len(tokens)].clone()

    @torch.inference_mode()
    def propose(
        self, latest: Int[Tensor, "batch unread"], cache: FixedCache, uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling, history: History | None,
    ) -> Drafted:  # fmt: skip
        """A block; a draft that reads the target begins it with the target's states, never with its own."""
        assert self._reads_target(cache, latest.shape[1])
        count, new = len(latest), latest.shape[1] + uniform.shape[1] - 1
        lengths, end = cache.room(new)
        history = history and history.map(lambda part: padded(part, cache.rows))
        rows = padded(latest, cache.rows), padded(uniform, cache.rows), history
        tokens, probs, history = self._block(
            self.model, *rows, sampling, lengths, cache.buffers, cache.target_states, end
        )
        cache.lengths = cache.lengths + new
        return tokens[:count].clone(), probs[:count].clone(), history and history.map(lambda part: part[:count].clone())

    def _reads_target(self, cache: FixedCache, new: int) -> bool:
        """Whether the target's states are there for the next ``new`` tokens; True for a model that reads none."""
        return not isinstance(self.model, EagleLM) or self.model.target_has_read(cache.lengths, new, cache.target)


def _states(
    model: LlamaLM | EagleLM, ids: Tensor, positions: Tensor, span: Span, buffers: Buffers, reads: tuple[int, ...],
    target_states: Tensor | None, own: Tensor | None,
) -> Tensor:  # fmt: skip
    """The last hidden states of a pass that writes at ``positions``.

    Args:
        target_states: of a draft that reads them; ``own``: the draft's own state, which stands in for them.
    """
    kv_heads = model.ops.config.kv_heads
    memories = [(span.room(layer), *layer.narrow(2, 0, span.end).split(kv_heads, 1)) for layer in buffers.layers]
    if isinstance(model, LlamaLM):
        return model.llama.through(ids, span, memories, reads, buffers.hidden)
    if own is None:
        assert target_states is not None
        own = model.states(target_states, positions - 1)
    return model.through(ids, own, span, memories[0])


def _forward(
    model: LlamaLM | EagleLM, ids: Tensor, lengths: Tensor, buffers: Buffers, reads: tuple[int, ...],
    target_states: Tensor | None, own: Tensor | None, end: int,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Logits of a pass, and the last state of a draft that reads the target."""
    positions = lengths.unsqueeze(1) + torch.arange(ids.shape[1], device=lengths.device)
    span = model.ops.ragged_span(positions, end)
    states = _states(model, ids, positions, span, buffers, reads, target_states, own)
    return model.head(states), states[:, -1:] if isinstance(model, EagleLM) else None


def _block(
    model: LlamaLM | EagleLM, latest: Tensor, uniform: Tensor, history: History | None, sampling: Sampling,
    lengths: Tensor, buffers: Buffers, target_states: Tensor | None, end: int,
) -> Drafted:  # fmt: skip
    """A drafted block: ``chain`` of passes, each written behind the one before."""
    fed, own = 0, None

    def step(ids: Tensor) -> Tensor:
        nonlocal fed, own
        logits, own = _forward(model, ids, lengths + fed, buffers, (), target_states, own, end)
        fed += ids.shape[1]
        return logits[:, -1]

    return chain(step, model.token_ids, latest, uniform, sampling, history)


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
        arguments = [draft_tokens, draft_probs, target_probs, positions, randomness.streams]
        if count != bucket(count):  # padded with copies of the last row
            last = torch.arange(bucket(count), device=positions.device).clamp_(max=count - 1)
            arguments = [argument[last] for argument in arguments]
        verdict = self._verify(self.rule, *arguments)
        return Verdict(verdict.accepted[:count].clone(), verdict.token[:count].clone())


def _verify(
    rule: Rule, draft_tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, positions: Tensor, streams: Tensor
) -> Verdict:
    # The numbers are hashed in the graph and equal those of a table; a seed would be a constant of the graph.
    randomness = Randomness(0, streams, streams=streams)
    return rule.verify(draft_tokens, draft_probs, target_probs, positions, randomness)
