"""What is wrong with a config: every key and value at once, with what is allowed and what was probably meant.

Nothing is loaded. Keys and types come from the constructors that the config names; ranges from the constructors
that are cheap to call (rules, group builders, settings), which raise ValueError.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pcg.config.build import TARGET, build, constructor, is_built
from pcg.config.settings import SOURCES, Decoding, Paths, Plan, Settings
from pcg.config.values import problems_of_values
from pcg.groups.table import GroupTable
from pcg.ranges import Ranges, out_of_range
from pcg.sampling import Sampling

# Arguments that the runner gives to a constructor, by role; a config does not name them.
SUPPLIED: Mapping[str, frozenset[str]] = {
    "target": frozenset({"device"}),
    "draft": frozenset({"device", "vocab_size", "target"}),
    "codec": frozenset({"device"}),
    "grouping.groups": frozenset({"codec", "codec_name", "cache"}),
    "grouping.groups.like": frozenset({"codec", "codec_name", "cache"}),
    "pcg.groups": frozenset({"model", "vocab_size"}),  # of an engine (pcg.engines.settings)
}
# Keys that a node may hold besides its constructor's own: every strategy takes these, so that strategies can be
# crossed with them in a sweep; a strategy that does not read them runs once.
SHARED: Mapping[str, Ranges] = {
    "grouping": {
        "groups": (lambda value: value is None or isinstance(value, Mapping), "keys and values, or null"),
        "theta": (lambda value: _fits(value, float | None), "a number, or null"),
    },
    "grouping.groups": {"source": (lambda value: value in SOURCES, f"one of {', '.join(SOURCES)}")},
}


class ConfigError(ValueError):
    """A config that cannot run; the message lists everything that is wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(f"  - {problem}" for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)  # a worker process raises it too


def check(config: Mapping[str, Any]) -> Settings:
    """The settings of a resolved config, or a ConfigError that lists every problem."""
    problems = problems_of_values(config) + _problems_of_settings(config)
    for role in ("target", "draft", "codec", "dataset", "grouping", "logger"):
        optional = role in ("draft", "logger", "codec")  # which command does without is for the command to say
        node = config.get(role)
        if is_built(node):
            problems += problems_of_node(node, role)
        elif not optional:
            problems.append(f"{role}: has no {TARGET}; it must name a constructor in pcg")
    problems += _problems_of_engine(config, problems)
    problems += problems_of_control(config.get("decoding"), config.get("grouping"))
    problems += problems_of_metrics(config.get("metrics"))
    problems += problems_of_language(config.get("metrics"), config.get("dataset"))
    problems += _problems_of_devices(config.get("device"), config.get("devices", 1))
    if problems:
        raise ConfigError(problems)
    return Settings(**config)


def _problems_of_engine(config: Mapping[str, Any], others: list[str]) -> list[str]:
    """What is wrong with ``engine``, and, where all else is right, what of the run it cannot do."""
    node = config.get("engine")
    if not is_built(node):
        return []
    problems = problems_of_node(node, "engine")
    return problems if problems or others else constructor(node[TARGET]).problems(config)  # type: ignore[attr-defined]


def check_trainer(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists what is wrong with the config of experiments/train.py."""
    if problems := problems_of_values(config) + problems_of_node(config["trainer"], "trainer"):
        raise ConfigError(problems)


def _problems_of_devices(device: Any, devices: Any) -> list[str]:
    """Whether as many GPUs are here as are asked for; a machine without any may be one that only starts the jobs."""
    if not isinstance(devices, int) or devices == 1 or not str(device).startswith(("auto", "cuda")):
        return []
    if ":" in str(device):
        return [f"devices={devices}: device={device} is one device; device=cuda takes the first {devices}"]
    there = torch.cuda.device_count()
    return [f"devices={devices}: this machine offers {there} CUDA device(s) to torch"] if 0 < there < devices else []


def problems_of_metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with the ``metrics`` group: ``when``, and a node for each metric."""
    when = (metrics or {}).get("when", "inline")
    problems = [] if when in ("inline", "after") else [f"metrics.when={when!r}: inline or after"]
    built = metric_nodes(metrics)
    for name, node in built.items():
        problems += problems_of_node(node, f"metrics.{name}")
    unnamed = [name for name in metrics or {} if name != "when" and name not in built]
    return problems + [f"metrics.{name}: names no metric; ~metrics.{name} leaves it out" for name in unnamed]


def problems_of_control(decoding: Any, grouping: Any) -> list[str]:
    """What is wrong with ``decoding.control``, and with what it is to control."""
    decoding = decoding if isinstance(decoding, Mapping) else {}
    node = decoding.get("control")
    if not is_built(node):
        return []
    problems = problems_of_node(node, "decoding.control")
    if decoding.get("candidates", 1) != 1:
        problems.append("decoding.control: a tree of candidates knows none; decoding/control=fixed, or candidates=1")
    if decoding.get("mode", "speculative") != "speculative":
        problems.append(f"decoding.control: decoding.mode={decoding['mode']} has no rounds; decoding/control=fixed")
    if node.get("budget") is not None:
        if not node.get("thetas"):
            problems.append("decoding.control.thetas: a budget needs some to choose from")
        groups = grouping.get("groups") if isinstance(grouping, Mapping) else None
        if not isinstance(groups, Mapping) or "theta" not in groups:
            problems.append(
                "decoding.control.budget: chooses the theta of groups; want grouping=pcg and groups with one"
            )
    return problems


def problems_without_control(config: Mapping[str, Any]) -> list[str]:
    """For a command that decodes with gamma as it stands, or not at all."""
    decoding = config.get("decoding")
    if isinstance(decoding, Mapping) and is_built(decoding.get("control")):
        return ["decoding.control: chooses along an utterance, which only runs do; decoding/control=fixed"]
    return []


def problems_of_language(metrics: Mapping[str, Any] | None, dataset: Mapping[str, Any] | None) -> list[str]:
    """A metric that listens for another language than the texts are in, where the dataset says which that is."""
    spoken = (dataset or {}).get("language")
    problems = []
    for name, node in metric_nodes(metrics).items():
        try:
            asked = inspect.signature(constructor(node[TARGET])).parameters.get("language")
        except ValueError:
            continue  # named already
        heard = asked and node.get("language", asked.default)
        if spoken is not None and heard not in (None, spoken):
            problems.append(
                f"metrics.{name}.language={heard}: the texts are {spoken} (dataset.language); metrics=paper "
                f"metrics.{name}.language={spoken} hears them"
            )
    return problems


def metric_nodes(metrics: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The metrics that a config asks for, by name; none for ``metrics=none``."""
    return {name: node for name, node in (metrics or {}).items() if is_built(node)}


def nearest(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'? allowed: ...`` for an error message.

    Of dotted keys only those are listed that lie where ``word`` lies.
    """
    allowed = sorted(allowed)
    leaves = {item.rpartition(".")[2]: item for item in allowed}
    close = difflib.get_close_matches(word, allowed, 1, 0.6)
    close = close or [leaves[leaf] for leaf in difflib.get_close_matches(word.rpartition(".")[2], leaves, 1, 0.6)]
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    place = word.rpartition(".")[0]
    beside = [item for item in allowed if item.rpartition(".")[0] == place] or allowed
    return f"{meant} allowed: {', '.join(beside) or '(none)'}"


def problems_of_node(node: Mapping[str, Any], path: str) -> list[str]:
    """What is wrong with a node that names a constructor, and with the nodes inside it."""
    try:
        make = constructor(node[TARGET])
    except ValueError as error:
        return [f"{path}: {error}"]
    given = {key: value for key, value in node.items() if key != TARGET}
    problems = [
        problem
        for key, value in given.items()
        if is_built(value)
        for problem in problems_of_node(value, f"{path}.{key}")
    ]
    wrong = _wrong_arguments(make, given, path)
    good = {key: value for key, value in given.items() if key not in wrong and not is_built(value)}
    beyond = out_of_range(good, {**SHARED.get(path, {}), **getattr(make, "RANGES", {})})
    problems += [_join(path, line) for line in beyond]
    if (path == "grouping" or path.startswith("grouping.")) and not wrong:
        problems += _refused(node, path)
    return problems + list(wrong.values())


def _refused(node: Mapping[str, Any], path: str) -> list[str]:
    """What the constructor itself says of its values, where calling it costs nothing and needs only plain ones."""
    asked = inspect.signature(constructor(node[TARGET])).parameters
    plain = {key: value for key, value in node.items() if key == TARGET or (key in asked and not is_built(value))}
    try:
        build(plain, groups=GroupTable.from_members([[0]], 1))
    except ValueError as error:
        return [f"{path}: {error}"]
    except TypeError:
        return []  # it needs a part that is not plain, and will say so when it is built
    return []


def _problems_of_settings(config: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    for part, given, path in (
        (Settings, config, ""),
        (Paths, config.get("paths") or {}, "paths"),
        (Decoding, config.get("decoding") or {}, "decoding"),
        (Plan, config.get("plan") or {}, "plan"),
    ):
        given = given if isinstance(given, Mapping) else {}  # what it is instead is named with the settings
        wrong = _wrong_arguments(part, given, path)
        good = {key: value for key, value in given.items() if key not in wrong}
        problems += wrong.values()
        problems += [_join(path, line) for line in out_of_range(good, getattr(part, "RANGES", {}))]
        if part is Decoding:
            problems += [_join(path, line) for line in _refused_by_sampling(good)]
    return problems


def _refused_by_sampling(decoding: Mapping[str, Any]) -> list[str]:
    try:
        Sampling(**{field.name: decoding[field.name] for field in fields(Sampling) if field.name in decoding})
    except ValueError as error:
        return str(error).removeprefix("sampling: ").split("; ")
    return []


def _wrong_arguments(make: Callable[..., Any], given: Mapping[str, Any], path: str) -> dict[str, str]:
    """By key, what is wrong: unknown and missing keys, wrong types."""
    parameters = inspect.signature(make).parameters
    supplied = SUPPLIED.get(path, frozenset())
    allowed = set(parameters) - supplied | set(SHARED.get(path, ()))
    hints = _hints(make)
    unknown = {key: f"{_join(path, key)}: unknown key{nearest(key, allowed)}" for key in given if key not in allowed}
    missing = {
        name: f"{_join(path, name)}: missing"
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in given and name not in supplied
    }
    mistyped = {
        key: _mistyped(_join(path, key), value, hints[key])
        for key, value in given.items()
        if key in hints and key in parameters and not is_built(value) and not _fits(value, hints[key])
    }
    return {**unknown, **missing, **mistyped}


def _mistyped(key: str, value: Any, hint: Any) -> str:
    """What is expected instead of a value; where it is text that reads as something else, how to write it."""
    text = value if isinstance(value, int | float) and not isinstance(value, bool) else "..."
    quoted = f"; text goes into quotes: \"{key}='{text}'\"" if _fits("", hint) and value is not None else ""
    return f"{key}={value!r}: expected {_words(hint)}{quoted}"


def _hints(make: Callable[..., Any]) -> dict[str, Any]:
    """Annotations as types, without those that only a type checker can resolve."""
    function = inspect.unwrap(make if inspect.isfunction(make) else make.__init__)
    hints: dict[str, Any] = {}
    for name, annotation in function.__annotations__.items():
        try:
            holder = types.SimpleNamespace(__annotations__={name: annotation})
            hints |= typing.get_type_hints(holder, function.__globals__)
        except NameError:
            continue
    return hints


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value satisfies an annotation; annotations that plain values cannot decide are let pass."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in options)
    if origin is typing.Literal:
        return value in options
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return isinstance(value, list) and (not options or all(_fits(item, options[0]) for item in value))
    return not _is_part(hint)  # a part, which the node itself would name


def _is_part(hint: Any) -> bool:
    """Whether an annotation is of what is built: a protocol, a class of ours, something to call."""
    return typing.get_origin(hint) is Callable or getattr(hint, "__module__", "").partition(".")[0] == "pcg"


def _words(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(option) for option in options)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, options))
    if hint is type(None):
        return "null"
    if _is_part(hint):
        return f"a part to build, with its {TARGET}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return plain.get(
        hint, "a list" if isinstance(origin, type) and not issubclass(origin, Mapping) else "keys and values"
    )
