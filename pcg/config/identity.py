"""The identity of a run: two configs that must give the same figures have the same ``run_id``."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from pcg.config.build import TARGET, constructor, is_built
from pcg.config.fingerprint import fingerprints
from pcg.config.settings import Decoding, metric_nodes, pick_device

# Keys that do not change the figures: where results go, what is logged, how many processes there are.
_ASIDE = ("paths", "logger", "study", "devices", "max_failures", "dry", "status", "plan", "objective")


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that decides the figures.

    Keys that the run does not read are left out: of ``grouping`` those that its rule has not, and without a draft the
    rule and gamma. So points of a sweep that differ in such keys only are one run. ``fingerprints`` are digests of the
    files at its paths, as weights may change under the same name.

    Raises:
        ConfigError: the engine is not installed.
    """
    run = {key: copy.deepcopy(value) for key, value in config.items() if key not in _ASIDE}
    device = pick_device(run["device"])
    run["device"] = str(device)
    run["metrics"] = metric_nodes(run["metrics"])
    engine_node = run.pop("engine", None)
    if is_built(engine_node):
        make: Any = constructor(engine_node[TARGET])
        run["engine"] = {**engine_node, "name": make.name, "version": make.version()}
    has_draft = is_built(run["draft"])
    if has_draft:
        read = inspect.signature(constructor(run["grouping"][TARGET])).parameters
        run["grouping"] = {key: value for key, value in run["grouping"].items() if key in read or key == TARGET}
    else:
        run["draft"] = run["grouping"] = None
    unread = _unread(run["decoding"], has_draft, "engine" in run, device.type)
    run["decoding"] = {key: value for key, value in run["decoding"].items() if key not in unread}
    run["fingerprints"] = fingerprints(run)
    return run


def _unread(decoding: Mapping[str, Any], has_draft: bool, by_engine: bool, device: str) -> set[str]:
    """Keys of ``decoding`` that change no figure of this run. Values from before a key was added count so, too."""
    unread = {key for key in ("sound_every", "penalty_window", "ras") if decoding.get(key) is None}
    if not has_draft:
        unread |= {"gamma", "baseline", "mode", "candidates", "sound_every"}
    elif decoding.get("mode", "speculative") != "speculative":  # token by token, and nothing is tested
        unread |= {"gamma", "sound_every"}
    if by_engine:  # it has no baseline in the same process, and its own keys for compiling and for batches
        unread |= {"baseline", "batch_size", "compile", "sound_every"}
    if decoding.get("repetition_penalty", 1) == 1:
        unread.add("penalty_window")
    if decoding.get("chunk") == Decoding.chunk:
        unread.add("chunk")
    if decoding.get("compile", False) is False or (decoding["compile"] == "auto" and device != "cuda"):
        unread.add("compile")
    return unread


def run_id(run: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits of a canonical config's hash, in which ``1`` and ``1.0`` are the same number.

    A compiled run and a plain one have the same tokens and other seconds, so they are two runs. ``auto`` on a GPU is
    the same run as ``true``.
    """
    if run["decoding"].get("compile") == "auto":
        run = {**run, "decoding": {**run["decoding"], "compile": True}}
    return hashlib.blake2b(json.dumps(_numbers(run), sort_keys=True).encode(), digest_size=5).hexdigest()


def _numbers(value: Any) -> Any:
    """The value with ``1.0``, ``1e3`` and ``-0.0`` as the integers that they equal."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def method(run: Mapping[str, Any]) -> str:
    """The name of the run's method: ``target alone``, ``exact``, ``pcg``, ..."""
    return "target alone" if run["grouping"] is None else name_of(run["grouping"])


def engine(run: Mapping[str, Any]) -> str:
    """What decodes a run (canonical): ``own`` or the engine's name."""
    return run["engine"]["name"] if run.get("engine") else "own"


def name_of(node: Mapping[str, Any]) -> str:
    """The module of a ``_target_``, which is what its YAML is called: ``pcg.groups.knn.KNN`` is ``knn``."""
    return str(node[TARGET]).split(".")[-2]


def theta(run: Mapping[str, Any]) -> float | None:
    """Theta of the run's groups to four digits, for random groups that of the builder whose sizes they have."""
    groups = (run["grouping"] or {}).get("groups") or {}
    value = groups.get("theta", groups.get("like", {}).get("theta"))
    return None if value is None else round(value, 4)


def label(run: Mapping[str, Any]) -> str:
    """The method with the settings of its rule: ``pcg theta=0.4``, ``ssd beta=0.4``, ``pcg groups=knn``.

    Numbers are always part of it, other settings where they differ from the rule's own default.
    """
    grouping = run["grouping"] or {}
    parameters = inspect.signature(constructor(grouping[TARGET])).parameters if grouping else {}
    settings = {
        key: value
        for key, value in grouping.items()
        if key in parameters and not isinstance(value, Mapping)
        and (isinstance(value, int | float) or value != parameters[key].default)
    }  # fmt: skip
    if is_built(grouping.get("groups")) and name_of(grouping["groups"]) != "cosine":
        settings = {"groups": name_of(grouping["groups"]), **settings}
    if theta(run) is not None:
        settings = {"theta": theta(run), **settings}
    if is_built(run.get("engine")):
        settings["engine"] = engine(run)
    return " ".join([method(run), *(f"{key}={_numbers(value)}" for key, value in settings.items())])
