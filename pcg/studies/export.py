"""``pcg export``: a trained draft as a folder that other software reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcg.config.build import TARGET, build, is_built
from pcg.config.validate import nearest, problems_of_node, refuse
from pcg.config.values import problems_of_values
from pcg.engines import speculators

FORMATS = {"speculators": speculators.write}
EAGLE = "pcg.models.eagle.EagleLM"


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists everything that is wrong with conf/export.yaml."""
    problems = [*problems_of_values(config)]
    for role in ("target", "draft"):
        node = config[role]
        if is_built(node):
            problems += problems_of_node(node, role)
        else:
            problems.append(f"{role} is required")
    if is_built(config["draft"]) and config["draft"][TARGET] != EAGLE:
        problems.append("draft: only a draft that reads the target can be exported; set draft=eagle draft.path=FOLDER")
    if is_built(config["target"]) and not is_built(config["target"].get("text")):
        problems.append("target: a text side is required, which knows the speech tokens (target=NAME of conf/target)")
    if config["format"] not in FORMATS:
        problems.append(f"format={config['format']!r}: unknown format{nearest(str(config['format']), FORMATS)}")
    if not isinstance(config["gamma"], int) or config["gamma"] < 1:
        problems.append(f"gamma={config['gamma']!r}: 1 or more")
    if not isinstance(config["out"], str) or not config["out"]:
        problems.append(f"out={config['out']!r}: the folder to write")
    refuse(problems)


def write(config: Mapping[str, Any]) -> Path:
    """Write the folder, print what it is, and return its path.

    Raises:
        ConfigError: the config is wrong.
        ValueError: a folder lacks a file or tensor, or the format cannot express the draft.
    """
    check(config)
    draft, target, out = config["draft"]["path"], config["target"]["path"], Path(config["out"])
    ids = build(config["target"]["text"]).speech_ids
    print(f"{out}: {FORMATS[config['format']](draft, target, ids, config['gamma'], out)}")
    return out
