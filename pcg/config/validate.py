"""Checks a config: names every wrong key and value at once, with what is allowed and what was probably meant.

Nothing is loaded or built. Keys, types and constraints are those in the signatures of the constructors that the config
names (``pcg.constraints``).
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal

import torch

from pcg import constraints
from pcg.config.build import TARGET, constructor, is_built
from pcg.config.settings import Settings, Source, metric_nodes
from pcg.config.values import problems_of_values

# By role, arguments that the runner gives to a constructor. A config does not have them.
SUPPLIED: Mapping[str, frozenset[str]] = {
    "target": frozenset({"device"}),
    "draft": frozenset({"device", "vocab_size", "target"}),
    "codec": frozenset({"device"}),
    "grouping.groups": frozenset({"codec", "codec_name", "cache"}),
    "grouping.groups.like": frozenset({"codec", "codec_name", "cache"}),
    "pcg.groups": frozenset({"model", "vocab_size"}),  # of an engine (pcg.engines.settings)
}
# By role, keys that a node may have besides its constructor's own. Every strategy accepts these, so that a sweep can
# cross strategies with them; for a strategy that does not read them all values are one run.
SHARED: Mapping[str, Mapping[str, Any]] = {
    "grouping": {"groups": Mapping[str, Any] | None, "theta": float | None},
    "grouping.groups": {"source": Source},
}


class ConfigError(ValueError):
    """A config that cannot run; the message lists everything that is wrong with it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__("\n".join(f"  - {problem}" for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)  # worker processes send it to the main process


def refuse(problems: Iterable[str], *checks: Callable[[], object]) -> None:
    """Raise a ConfigError that lists these problems and those that the checks raise, if there are any."""
    all_problems = [*problems]
    for check in checks:
        try:
            check()
        except ConfigError as error:
            all_problems += error.problems
    if all_problems:
        raise ConfigError(all_problems)


def check(config: Mapping[str, Any]) -> Settings:
    """The settings of a resolved config, or a ConfigError that lists every problem."""
    problems = problems_of_values(config) + _wrong_arguments(Settings, {**config, "metrics": {}}, "")
    for role in ("target", "draft", "codec", "dataset", "grouping", "logger"):
        optional = role in ("draft", "logger", "codec")  # a command that requires one checks that itself
        node = config.get(role)
        if is_built(node):
            problems += problems_of_node(node, role)
        elif not optional:
            problems.append(f"{role}: {TARGET} is required; it names a constructor in pcg")
    problems += _problems_of_engine(config, problems)
    problems += problems_of_metrics(config.get("metrics"))
    problems += problems_of_language(config.get("metrics"), config.get("dataset"))
    refuse([*problems, *_problems_of_devices(config.get("device"), config.get("devices", 1))])
    return Settings.of(config)


def _problems_of_engine(config: Mapping[str, Any], others: list[str]) -> list[str]:
    """What is wrong with ``engine``; where nothing else is wrong, also what it does not support of the run."""
    node = config.get("engine")
    if not is_built(node):
        return []
    problems = problems_of_node(node, "engine")
    return problems if problems or others else constructor(node[TARGET]).problems(config)  # type: ignore[attr-defined]


def check_trainer(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists what is wrong with the config of experiments/train.py."""
    refuse(problems_of_values(config) + problems_of_node(config["trainer"], "trainer"))


def _problems_of_devices(device: Any, devices: Any) -> list[str]:
    """The problem of more devices than there are GPUs. Without any GPU there is none: it may be a machine that only
    starts jobs."""
    if not isinstance(devices, int) or devices == 1 or not str(device).startswith(("auto", "cuda")):
        return []
    if ":" in str(device):
        return [f"devices={devices}: device={device} is one device; device=cuda takes the first {devices}"]
    gpus = torch.cuda.device_count()
    return [f"devices={devices}: this machine offers {gpus} CUDA device(s) to torch"] if 0 < gpus < devices else []


def problems_of_metrics(metrics: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with the ``metrics`` group: ``when``, and a node for each metric."""
    problems = constraints.problems(metrics or {}, {"when": Literal["inline", "after"]}, "metrics.")
    built = metric_nodes(metrics)
    for name, node in built.items():
        problems += problems_of_node(node, f"metrics.{name}")
    others = [name for name in metrics or {} if name != "when" and name not in built]
    return problems + [f"metrics.{name}: has no {TARGET}; ~metrics.{name} leaves the metric out" for name in others]


def problems_of_language(metrics: Mapping[str, Any] | None, dataset: Mapping[str, Any] | None) -> list[str]:
    """Problems of metrics that expect another language than the dataset says its texts are in."""
    language = (dataset or {}).get("language")
    problems = []
    for name, node in metric_nodes(metrics).items():
        try:
            parameter = inspect.signature(constructor(node[TARGET])).parameters.get("language")
        except ValueError:
            continue  # ``problems_of_metrics`` names it
        expected = parameter and node.get("language", parameter.default)
        if language is not None and expected not in (None, language):
            problems.append(
                f"metrics.{name}.language={expected}: the texts are {language} (dataset.language); set metrics=paper "
                f"metrics.{name}.language={language}"
            )
    return problems


def nearest(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'x'? allowed: ...`` for an error message.

    For a dotted key only the keys beside it are listed.
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
    return problems + _wrong_arguments(make, given, path)


def _wrong_arguments(make: Callable[..., Any], given: Mapping[str, Any], path: str) -> list[str]:
    """What is wrong with the arguments of a constructor: unknown keys, missing keys, values that are not allowed."""
    parameters, shared = inspect.signature(make).parameters, SHARED.get(path, {})
    supplied, prefix = SUPPLIED.get(path, frozenset()), f"{path}." if path else ""
    allowed = set(parameters) - supplied | set(shared)
    unknown = [f"{prefix}{key}: unknown key{nearest(key, allowed)}" for key in given if key not in allowed]
    missing = [
        f"{prefix}{name} is required"
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty and name not in given and name not in supplied
    ]
    hints = {**shared, **constraints.hints_of(make)}
    plain = {key: value for key, value in given.items() if key in allowed and not is_built(value)}
    problems = [*unknown, *missing]
    for key in [key for key, value in plain.items() if isinstance(value, Mapping)]:
        options = typing.get_args(hints.get(key)) or (hints.get(key),)
        made: Any = next((option for option in options if is_dataclass(option)), None)
        if made is not None:
            problems += _wrong_arguments(made, plain.pop(key), prefix + key)
    return [*problems, *constraints.problems(plain, hints, prefix)]
