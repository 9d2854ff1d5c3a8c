"""What holds of the values of every config, whatever its keys: numbers are finite, places lie on this machine."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*", re.DOTALL)
_PLACES = frozenset(
    {"voice", "path", "folder", "prompt", "outputs", "work", "run", "corpus", "codec", "tokens", "out", "start"}
)
_WHOLE = 2**63  # whole numbers become those of torch, seeds above all


def study_folder(outputs: str, study: object) -> Path:
    """Where a study's results lie; ``~`` is the user's home."""
    return Path(outputs).expanduser() / str(study)


def expanded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the user's home in place of the ``~`` at the start of a path."""

    def of(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return expanded(value)
        return os.path.expanduser(value) if key in _PLACES and isinstance(value, str) else value

    return {key: of(key, value) for key, value in config.items()}


def without_advice(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without what models' choices say of their authors' ``sampling``: ``decoding`` has read it by then."""
    return {
        key: without_advice(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not (key == "sampling" and "_target_" in config)
    }


def problems_of_values(config: Mapping[str, Any]) -> list[str]:
    """Numbers that are none or too large, URIs where a path belongs, results that cannot be written."""
    found = []
    for key, value in _leaves(config, ""):
        if isinstance(value, float) and not math.isfinite(value):
            found.append(f"{key}={value}: expected a finite number")
        elif isinstance(value, int) and not -_WHOLE <= value < _WHOLE:
            found.append(f"{key}={value}: expected a number of at most 63 bits")
        elif isinstance(value, str) and key.rpartition(".")[2] in _PLACES and _URI.fullmatch(value):
            found.append(f"{key}={value!r}: expected a path on this machine; URIs are not read or written")
    return found or _problems_of_outputs(config)


def _problems_of_outputs(config: Mapping[str, Any]) -> list[str]:
    """What asks only (``status``, ``dry``) writes nothing."""
    outputs = (config.get("paths") or {}).get("outputs")
    if not isinstance(outputs, str) or config.get("status") or config.get("dry"):
        return []
    folder = study_folder(outputs, config.get("study", ""))
    place = next(each for each in (folder, *folder.parents) if each.exists())
    if not place.is_dir():
        return [f"paths.outputs={outputs!r}: {place} is no folder"]
    if not os.access(place, os.W_OK | os.X_OK):
        return [f"paths.outputs={outputs!r}: {place} may not be written to"]
    return []


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that holds nothing else."""
    inner = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if inner is None:
        yield path, node
    for key, value in inner or ():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
