"""From what an engine is told to a rule: ``{"rule": "pcg", "groups": "groups.safetensors"}``.

``rule`` is the name of a rule as in ``grouping=NAME``; ``groups`` a file of ``pcg groups``, or ``{"theta": .45}`` with
or without ``"center"`` to build them from the target's input table when the engine starts. All other keys are the
rule's own arguments.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

import pcg.acceptance
from pcg.config.build import TARGET, build
from pcg.config.validate import ConfigError, nearest, problems_of_node
from pcg.engines.tables import in_words
from pcg.groups.table import GroupTable
from pcg.interfaces import Rule

_TABLES = "pcg.engines.tables"
_PATH = "pcg"  # where an engine's configuration has these settings


@cache
def rules() -> dict[str, type]:
    """By the name of its file each rule that verifies chains from distributions alone."""
    found = {}
    for module in pkgutil.iter_modules(pcg.acceptance.__path__):
        inside = vars(importlib.import_module(f"{pcg.acceptance.__name__}.{module.name}"))
        for name, value in inside.items():
            own = inspect.isclass(value) and name.lower() == module.name.replace("_", "")
            if own and hasattr(value, "verify") and not hasattr(value, "first_acceptance"):
                found[module.name] = value
    return found


def node_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as a config node that names its constructors.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    if not isinstance(settings, Mapping) or "rule" not in settings:
        raise ConfigError([f'{_PATH}: want keys and values, {{"rule": "pcg", "groups": "groups.safetensors"}}'])
    name, given = settings["rule"], {key: value for key, value in settings.items() if key != "rule"}
    if name not in rules():
        raise ConfigError([f"{_PATH}.rule={name!r}: no such rule{nearest(str(name), rules())}"])
    make = rules()[name]
    node = {TARGET: f"{make.__module__}.{make.__name__}", **given}
    problems = []
    if "groups" in inspect.signature(make).parameters:
        groups = given.get("groups")
        if isinstance(groups, str):
            node["groups"] = {TARGET: f"{_TABLES}.of_file", "path": groups}
        elif isinstance(groups, Mapping):
            node["groups"] = {TARGET: f"{_TABLES}.of_model", **groups}
        else:
            node["groups"] = {TARGET: f"{_TABLES}.of_file", "path": ""}
            problems.append(f'{_PATH}.groups={groups!r}: a file that `pcg groups` has made, or {{"theta": 0.45}}')
    problems += problems_of_node(node, _PATH)
    if problems:
        raise ConfigError(problems)
    return node


def rule_of(settings: Mapping[str, Any], model: str, vocab_size: int, device: torch.device) -> Rule:
    """The rule, its groups on the device.

    Args:
        model: folder or hub id of the target.
        vocab_size: tokens of the target, text included.

    Raises:
        ConfigError, FileNotFoundError, ValueError: the settings, the file or the model do not fit.
    """
    node = node_of(settings)
    if "groups" not in node:
        return build(node)
    table = build(node.pop("groups"), model=model, vocab_size=vocab_size)
    return build(node, groups=table.to(device))


def told(rule: Rule) -> str:
    """The rule and its groups, in a line."""
    arguments = {name: getattr(rule, name) for name in inspect.signature(type(rule)).parameters}
    groups = arguments.pop("groups", None)
    name = next(name for name, make in rules().items() if make is type(rule))
    shown = " ".join([name, *(f"{key}={value}" for key, value in arguments.items())])
    return f"{shown}; {in_words(groups)}" if isinstance(groups, GroupTable) else shown
