"""Constraints on the plain arguments of a constructor, in its annotations.

    beta: Annotated[float, FROM_0] = 0.4

A config is checked against them before anything is loaded (``pcg.config.validate``), a ``checked`` class when it is
built.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import torch

T = TypeVar("T")
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


@dataclass(frozen=True)
class Constraint:
    """What a value must satisfy beyond its type, and the same in words for an error: ``key=value: words``."""

    holds: Callable[[Any], bool]
    words: str


FROM_1 = Constraint(lambda value: value >= 1, "1 or more")
FROM_0 = Constraint(lambda value: value >= 0, "0 or more")
ABOVE_0 = Constraint(lambda value: value > 0, "above 0")
SHARE = Constraint(lambda value: 0 <= value <= 1, "from 0 to 1")
SHARE_ABOVE_0 = Constraint(lambda value: 0 < value <= 1, "above 0, at most 1")
BOUNDS = Constraint(
    lambda value: len(value) == 2 and 0 <= value[0] <= value[1], "two numbers, the least and then the most"
)


def at_least(least: int) -> Constraint:
    return Constraint(lambda value: value >= least, f"{least} or more")


def up_to(most: int) -> Constraint:
    """A count from 1 to ``most``. More than anybody needs is a typing mistake that would take all memory or time."""
    return Constraint(lambda value: 1 <= value <= most, f"1 to {most:,}")


def matching(pattern: str, words: str) -> Constraint:
    return Constraint(lambda value: re.fullmatch(pattern, value) is not None, words)


def one_of(*names: str) -> Constraint:
    """One of these names, for a ``checked`` constructor; elsewhere a ``Literal`` does the same."""
    return Constraint(names.__contains__, f"one of {', '.join(names)}")


Limit = Annotated[int, FROM_1] | None  # the first N; null for all
Device = Annotated[str, matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")]
Language = Annotated[str, matching("[a-z]{2,3}", "a code such as en, zh, de")]


def checked(made: type[T]) -> type[T]:
    """Make a class raise a ValueError that names all arguments which its constraints do not allow.

    Only annotations with a ``Constraint`` are checked; types are left to the type checker.
    """
    hints = {name: hint for name, hint in hints_of(made).items() if any(map(_constraints, _options(hint)))}
    names, init = tuple(inspect.signature(made).parameters), made.__init__

    @functools.wraps(init)
    def checked_init(self: Any, *values: Any, **named: Any) -> None:
        compiling = torch.compiler.is_compiling()  # in a graph arguments are constants, which were checked before
        if not compiling and (wrong := problems(dict(zip(names, values, strict=False)) | named, hints)):
            raise ValueError(f"{made.__name__}: {'; '.join(wrong)}")
        init(self, *values, **named)

    made.__init__ = checked_init  # type: ignore[method-assign]
    return made


def problems(values: Mapping[str, Any], hints: Mapping[str, Any], path: str = "") -> list[str]:
    """``path.key=value: what is allowed`` for each value that its annotation does not allow."""
    lines = [_problem(path + key, values[key], hint) for key, hint in hints.items() if key in values]
    return [line for line in lines if line is not None]


def hints_of(make: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a constructor's arguments, without those that cannot be resolved at run time."""
    function = inspect.unwrap(make if inspect.isfunction(make) else make.__init__)
    owners = reversed(make.__mro__[:-1]) if inspect.isclass(make) else ()  # a dataclass has its base's annotations too
    names = dict(
        ChainMap(getattr(function, "__globals__", {}), *(vars(sys.modules[owner.__module__]) for owner in owners))
    )
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():  # a class without __init__ has none
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= typing.get_type_hints(holder, names, include_extras=True)
        except NameError:
            continue
    return hints


def _problem(key: str, value: Any, hint: Any) -> str | None:
    of_type = [option for option in _options(hint) if _has_type(value, option)]
    broken = [[limit.words for limit in _constraints(option) if not limit.holds(value)] for option in of_type]
    if not all(broken):
        return None
    if broken:
        or_null = ", or null" if type(None) in _options(hint) else ""
        return f"{key}={value!r}: {'; '.join(words for of_option in broken for words in of_option)}{or_null}"
    text = value if isinstance(value, int | float) and not isinstance(value, bool) else "..."
    quoted = f"; text goes into quotes: \"{key}='{text}'\"" if _has_type("", hint) and value is not None else ""
    return f"{key}={value!r}: expected {_words(hint)}{quoted}"


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _constraints(hint: Any) -> list[Constraint]:
    return [item for item in getattr(hint, "__metadata__", ()) if isinstance(item, Constraint)]


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a plain value has the type of an annotation. Annotations that are not of plain values accept all."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _has_type(value, options[0])
    if origin in (typing.Union, types.UnionType):
        return any(_has_type(value, option) for option in options)
    if origin is Literal:
        return value in options
    if hint in (bool, type(None)):
        return isinstance(value, hint)
    if hint in (int, float):
        return isinstance(value, (int, float) if hint is float else int) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, (str, hint))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return isinstance(value, list | tuple) and (
            not options or all(_problem("", item, options[0]) is None for item in value)
        )
    return not _is_built(hint)  # which needs a node with its _target_


def _is_built(hint: Any) -> bool:
    """Whether an annotation is of an object to build: a protocol, a class of pcg, a callable."""
    return typing.get_origin(hint) is Callable or getattr(hint, "__module__", "").partition(".")[0] == "pcg"


def _words(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _words(options[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(option) for option in options)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, options))
    if hint is type(None):
        return "null"
    if is_dataclass(hint):
        return "keys and values"
    if _is_built(hint):
        return "a node with its _target_"
    listed = isinstance(origin, type) and not issubclass(origin, Mapping)
    return _PLAIN.get(hint, "a list" if listed else "keys and values")
