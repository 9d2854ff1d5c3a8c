"""Builds objects from config nodes: ``_target_`` names a constructor inside ``pcg.``, the other keys are its
arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

TARGET = "_target_"


def constructor(name: str) -> Callable[..., Any]:
    """The class or function that ``_target_`` names.

    Raises:
        ValueError: it is outside ``pcg.`` (a config is data, not code), or does not exist.
    """
    module, _, attribute = str(name).rpartition(".")
    if not module.startswith("pcg.") or attribute[:1] == "_":
        raise ValueError(f"_target_ {name!r}: only public names inside 'pcg.' are built from a config")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("pcg"):
            raise ValueError(f"_target_ {name!r} needs the package {error.name!r}, which is not installed") from error
        raise ValueError(f"_target_ {name!r}: there is no module {error.name!r}") from error
    except AttributeError as error:
        raise ValueError(f"_target_ {name!r}: {module!r} has no {attribute!r}") from error
    if not callable(made) or getattr(made, "__module__", "").partition(".")[0] != "pcg":
        raise ValueError(f"_target_ {name!r}: not a class or function of pcg")
    return made


def build(node: Mapping[str, Any], **supplied: Any) -> Any:
    """Build a node and, first, the nodes inside it.

    Args:
        node: plain values, with ``_target_``.
        supplied: arguments that the runner gives. Each is passed to those constructors, of the node and of the nodes
            inside it, that have a parameter of its name.
    """
    make = constructor(node[TARGET])
    parameters = inspect.signature(make).parameters
    arguments = {key: _value(value, supplied) for key, value in node.items() if key != TARGET}
    return make(**{**arguments, **{key: value for key, value in supplied.items() if key in parameters}})


def is_built(node: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a config node names something to build (``none`` choices have no ``_target_``)."""
    return isinstance(node, Mapping) and bool(node.get(TARGET))


def _value(value: Any, supplied: Mapping[str, Any]) -> Any:
    if is_built(value):
        return build(value, **supplied)
    if isinstance(value, Mapping):
        return {key: _value(item, supplied) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item, supplied) for item in value]
    return value
