"""A stage of training as a command does it: never into what another training has written.

What a stage is made with (its settings, and the content of what it reads) is noted beside its output, in
``OUT.made.json``. A stage that is started again with the same goes on; with anything else it is refused, and told what
differs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcg.config.build import TARGET, build, constructor
from pcg.config.fingerprint import described
from pcg.config.validate import ConfigError
from pcg.results.records import write_atomically

log = logging.getLogger("pcg")

_OUTPUTS = ("out", "folder")  # which of them a stage has
# What may differ when a stage goes on: how far, on what, what is told meanwhile; and its ``REPORTS``.
_ASIDE = frozenset(
    {
        *_OUTPUTS, "steps", "utterances", "checkpoint_every", "wandb", "devices", "accelerator", "precision",
        "batch_size", "workers",
    }
)  # fmt: skip


def run_stage(node: Mapping[str, Any]) -> None:
    """Do a stage, or what is left of it.

    Args:
        node: its config, plain values.

    Raises:
        ConfigError: its output is there and was made with something else, or nobody knows with what.
    """
    place = Path(node[next(key for key in _OUTPUTS if key in node)]).expanduser()
    note, made = place.with_name(f"{place.name}.made.json"), _made_with(node)
    checkpoint = place.with_name(f"{place.name}.ckpt")
    if checkpoint.exists() or (place.is_dir() and any(place.iterdir())):
        before = _noted(note)
        if before is None and not checkpoint.exists() and not any(place.glob("*.parquet")):
            raise ConfigError([f"{place} holds a model, and not what it was trained with: choose another folder"])
        if before is None:
            log.warning("%s: made by a version that did not note what with; taken to be these settings", place)
        elif before != made:
            raise ConfigError([f"{place} was made with other settings: {_differences(before, made)}. {_advice(place)}"])
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(made, indent=1, sort_keys=True) + "\n")
    build(node).run()


def _made_with(node: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key what decides the output: settings, and in place of paths the digest of what lies there."""
    aside = _ASIDE | getattr(constructor(node[TARGET]), "REPORTS", frozenset())
    told = described({key: value for key, value in node.items() if key not in aside})
    return {key: value for key, value in told.items() if key.rpartition(".")[2] != "device"}


def _noted(note: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differences(before: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    keys = [key for key in {**before, **made} if before.get(key) != made.get(key)]
    shown = [f"{key} was {before.get(key)!r}, is {made.get(key)!r}" for key in keys[:6] if key != TARGET]
    return "; ".join(shown) + (f"; and {len(keys) - 6} more" if len(keys) > 6 else "")


def _advice(place: Path) -> str:
    return f"Choose another folder, or begin anew by removing {place}, {place.name}.ckpt and {place.name}.made.json"
