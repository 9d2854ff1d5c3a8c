"""``pcg groups``: the groups of a rule as a file over all tokens of a target, text included, for an engine's plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pcg import constraints
from pcg.config.build import build, is_built
from pcg.config.fingerprint import fingerprints
from pcg.config.settings import pick_device
from pcg.config.validate import problems_of_node, refuse
from pcg.config.values import problems_of_values
from pcg.constraints import Device
from pcg.engines.tables import unloaded
from pcg.files import replacing
from pcg.runner.groups import group_table


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists everything that is wrong with conf/groups.yaml."""
    problems = [*problems_of_values(config), *constraints.problems(config, {"device": Device})]
    for role in ("target", "draft", "codec", "grouping"):
        if is_built(config[role]):
            problems += problems_of_node(config[role], role)
    if not is_built(config["target"]):
        problems.append("target is required: pcg groups target=NAME")
    if not is_built(config["grouping"].get("groups")):
        problems.append("grouping: this rule has no groups; set grouping=pcg, pcg_block, coupling or bucket")
    if not isinstance(config["out"], str) or not config["out"].endswith(".safetensors"):
        problems.append(f"out={config['out']!r}: a file name that ends in .safetensors")
    refuse(problems)


def write(config: Mapping[str, Any]) -> Path:
    """Build the table, write it, print what it is, and return its path.

    Raises:
        ConfigError: the config is wrong.
        ValueError: a folder lacks a file or tensor.
    """
    check(config)
    device = pick_device(config["device"])
    target = unloaded(config["target"], device)
    draft = unloaded(config["draft"], device) if is_built(config["draft"]) else None
    codec = build(config["codec"], device=device) if is_built(config["codec"]) else None
    described = config["codec"], fingerprints({"codec": config["codec"]})
    table = group_table(config["grouping"]["groups"], target, draft, codec, *described)
    table = table.in_vocabulary(target.ids, target.rows)
    file = Path(config["out"])
    with replacing(file) as unfinished:
        table.save(unfinished)
    print(f"{file}: {table.in_words()}")
    return file
