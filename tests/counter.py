"""Counts, on a CPU, what a GPU would be asked to do: operations launched, and times that the host waits for it."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# What brings a value to the host, or makes a shape of one.
_LOOKS = {"tolist", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero", "unique"}
_FREE = ("empty", "detach", "lift_fresh", "_unsafe_view", "alias", "_reshape_alias", "_local_scalar_dense")


class Operations(TorchDispatchMode):
    """How often each kernel runs; views and allocations are none."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if not is_view and not name.startswith(_FREE):
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Where the host would wait for tensors that live on the device: ``roots``, and all that is made from them.

    A tensor that was brought to the host is a new one, which lives there.
    """

    def __init__(self, roots: Iterable[Tensor]) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self._on_device: dict[int, ref[Tensor]] = {}
        self._mark(list(roots))

    def _mark(self, found: object) -> None:
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                key = id(tensor)
                self._on_device[key] = ref(tensor)

    def _lives_there(self, found: object) -> bool:
        return any(
            isinstance(each, Tensor) and id(each) in self._on_device and self._on_device[id(each)]() is each
            for each in tree_leaves(found)
        )

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if not self._lives_there((args, kwargs)):
            return result
        by_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in tree_leaves(args[1])
        )
        if name not in _LOOKS and not by_mask:
            self._mark((result, args[:1]) if name.endswith("_") else result)
            return result
        caller = next(f for f in reversed(traceback.extract_stack()) if "/pcg/" in f.filename)
        self.places[f"{caller.filename.rpartition('/pcg/')[2]}:{caller.name}"] += 1
        if name in ("nonzero", "unique", "__getitem__"):
            self._mark(result)
        return result.clone() if name == "cpu" else result
