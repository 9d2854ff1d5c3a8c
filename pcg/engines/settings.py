"""Builds a rule from the settings given to an engine: ``{"rule": "pcg", "groups": "groups.safetensors"}``.

``rule`` is the name of a rule as in ``grouping=NAME``. ``groups`` is a file written by ``pcg groups``, or
``{"theta": .45}``, with or without ``"center"``, to build them from the target's input table when the engine starts.
All other keys are arguments of the rule.
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
from pcg.config.validate import ConfigError, nearest, problems_of_node, refuse
from pcg.groups.table import GroupTable
from pcg.interfaces import Rule

_TABLES = "pcg.engines.tables"
_PATH = "pcg"  # the key of these settings in an engine's configuration


@cache
def rules() -> dict[str, type]:
    """The rules that verify chains from distributions alone, by the names of their files."""
    classes = {}
    for module in pkgutil.iter_modules(pcg.acceptance.__path__):
        inside = vars(importlib.import_module(f"{pcg.acceptance.__name__}.{module.name}"))
        for name, value in inside.items():
            own = inspect.isclass(value) and name.lower() == module.name.replace("_", "")
            if own and hasattr(value, "verify") and not hasattr(value, "first_acceptance"):
                classes[module.name] = value
    return classes


def node_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as a config node with ``_target_`` keys.

    Raises:
        ConfigError: lists everything that is wrong with them.
    """
    if not isinstance(settings, Mapping) or "rule" not in settings:
        raise ConfigError([f'{_PATH} must be an object such as {{"rule": "pcg", "groups": "groups.safetensors"}}'])
    name, arguments = settings["rule"], {key: value for key, value in settings.items() if key != "rule"}
    if name not in rules():
        raise ConfigError([f"{_PATH}.rule={name!r} does not exist{nearest(str(name), rules())}"])
    make = rules()[name]
    node = {TARGET: f"{make.__module__}.{make.__name__}", **arguments}
    problems = []
    if "groups" in inspect.signature(make).parameters:
        groups = arguments.get("groups")
        if isinstance(groups, str):
            node["groups"] = {TARGET: f"{_TABLES}.of_file", "path": groups}
        elif isinstance(groups, Mapping):
            node["groups"] = {TARGET: f"{_TABLES}.of_model", **groups}
        else:
            node["groups"] = {TARGET: f"{_TABLES}.of_file", "path": ""}
            problems.append(f'{_PATH}.groups={groups!r} must be a file written by `pcg groups`, or {{"theta": 0.45}}')
    problems += problems_of_node(node, _PATH)
    refuse(problems)
    return node


def rule_of(settings: Mapping[str, Any], model: str, vocab_size: int, device: torch.device) -> Rule:
    """Builds the rule, with its groups on the device.

    Args:
        model: folder or hub id of the target.
        vocab_size: number of tokens of the target, text included.

    Raises:
        ConfigError, FileNotFoundError, ValueError: the settings are wrong, or the file is not for this model.
    """
    node = node_of(settings)
    if "groups" not in node:
        return build(node)
    table = build(node.pop("groups"), model=model, vocab_size=vocab_size)
    return build(node, groups=table.to(device))


def described(rule: Rule) -> str:
    """The rule and its groups in one line."""
    arguments = {name: getattr(rule, name) for name in inspect.signature(type(rule)).parameters}
    groups = arguments.pop("groups", None)
    name = next(name for name, make in rules().items() if make is type(rule))
    shown = " ".join([name, *(f"{key}={value}" for key, value in arguments.items())])
    return f"{shown}; {groups.in_words()}" if isinstance(groups, GroupTable) else shown
