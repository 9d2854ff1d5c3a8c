"""Checks of values in every config, whatever its keys: numbers are finite, paths are on this machine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
_PATHS = frozenset(
    {"voice", "path", "folder", "prompt", "outputs", "work", "run", "corpus", "codec", "tokens", "out", "start"}
)
_WHOLE = 2**63  # whole numbers, seeds above all, become int64


def study_folder(outputs: str, study: object) -> Path:
    """The folder of a study's results; ``~`` is the user's home."""
    return Path(outputs).expanduser() / str(study)


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the user's home in place of ``~`` in paths, and without the ``sampling`` of models' choices,
    which ``decoding`` has been composed from."""

    def of(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return resolved(value)
        return os.path.expanduser(value) if key in _PATHS and isinstance(value, str) else value

    is_built = "_target_" in config
    return {key: of(key, value) for key, value in config.items() if not (key == "sampling" and is_built)}


def problems_of_values(config: Mapping[str, Any]) -> list[str]:
    """Problems of numbers that are not finite or too large, of URIs in place of paths, of results that cannot be
    written."""
    problems = []
    for key, value in _leaves(config, ""):
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{key}={value}: expected a finite number")
        elif isinstance(value, int) and not -_WHOLE <= value < _WHOLE:
            problems.append(f"{key}={value}: expected a number of at most 63 bits")
        elif isinstance(value, str) and key.rpartition(".")[2] in _PATHS and _URI.fullmatch(value):
            problems.append(f"{key}={value!r}: expected a path on this machine; URIs are not read or written")
    return problems or _problems_of_outputs(config)


def _problems_of_outputs(config: Mapping[str, Any]) -> list[str]:
    """The problem of an outputs folder that cannot be written to; ``status`` and ``dry`` write nothing."""
    outputs = (config.get("paths") or {}).get("outputs")
    if not isinstance(outputs, str) or config.get("status") or config.get("dry"):
        return []
    folder = study_folder(outputs, config.get("study", ""))
    existing = next(above for above in (folder, *folder.parents) if os.path.exists(above))
    if not existing.is_dir():
        return [f"paths.outputs={outputs!r}: {existing} is no folder"]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [f"paths.outputs={outputs!r}: {existing} may not be written to"]
    return []


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every plain value."""
    inner = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if inner is None:
        yield path, node
    for key, value in inner or ():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
