"""Runs a stage of training, and never writes into the output of another training.

The settings of a stage and digests of the files that it reads are noted beside its output, in ``OUT.made.json``.
Started again with the same a stage goes on. With anything else it is refused, and the error lists the differences.
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

_OUTPUTS = ("out", "folder")  # the key of a stage's output is one of these
# Keys that may differ when a stage goes on: how far, on which machine, what is logged; and its ``REPORTS``.
_ASIDE = frozenset(
    {
        *_OUTPUTS, "steps", "utterances", "checkpoint_every", "wandb", "devices", "accelerator", "precision",
        "batch_size", "workers",
    }
)  # fmt: skip


def run_stage(node: Mapping[str, Any]) -> None:
    """Do a stage, or the rest of it.

    Args:
        node: its config, plain values.

    Raises:
        ConfigError: the output exists and was made with other settings, or with unknown ones.
    """
    place = Path(node[next(key for key in _OUTPUTS if key in node)]).expanduser()
    note, made = place.with_name(f"{place.name}.made.json"), _made_with(node)
    checkpoint = place.with_name(f"{place.name}.ckpt")
    if checkpoint.exists() or (place.is_dir() and any(place.iterdir())):
        before = _noted(note)
        if before is None and not checkpoint.exists() and not any(place.glob("*.parquet")):
            raise ConfigError([f"{place} holds a model without a note of its settings: choose another folder"])
        if before is None:
            log.warning("%s: made by a version that did not note settings; these settings are assumed", place)
        elif before != made:
            advice = f"remove {place}, {place.name}.ckpt and {place.name}.made.json to start over"
            differences = _differences(before, made)
            raise ConfigError(
                [f"{place} was made with other settings: {differences}. Choose another folder, or {advice}"]
            )
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(note, json.dumps(made, indent=1, sort_keys=True) + "\n")
    build(node).run()


def _made_with(node: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key the settings that decide the output, with digests in place of paths."""
    aside = _ASIDE | getattr(constructor(node[TARGET]), "REPORTS", frozenset())
    settings = described({key: value for key, value in node.items() if key not in aside})
    return {key: value for key, value in settings.items() if key.rpartition(".")[2] != "device"}


def _noted(note: Path) -> dict[str, Any] | None:
    try:
        made = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) else None


def _differences(before: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    keys = [key for key in {**before, **made} if before.get(key) != made.get(key)]
    shown = [f"{key} was {before.get(key)!r}, is {made.get(key)!r}" for key in keys[:6] if key != TARGET]
    return "; ".join(shown) + (f"; and {len(keys) - 6} more" if len(keys) > 6 else "")
