"""Every number of every config under conf/, one at a time replaced by another."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pcg.command import cli


def numbers_of_every_config(value: float) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """File, dotted key within it, and its content with ``value`` there."""
    for file in sorted(Path(cli.CONF).rglob("*.yaml")):
        content = OmegaConf.to_container(OmegaConf.load(file))
        assert isinstance(content, dict)
        for path in _numbers(content, ()):
            changed = copy.deepcopy(content)
            node: Any = changed
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = value
            yield file.name, ".".join(map(str, path)), changed


def _numbers(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(node, int | float) and not isinstance(node, bool):
        yield path
    for key, inner in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from _numbers(inner, (*path, key))
