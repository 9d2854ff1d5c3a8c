"""Which run a config asks for. Two configs that must give the same figures have the same ``run_id``."""

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

# Where results go, who is told, how many share the work: no part of what is measured.
_ASIDE = ("paths", "logger", "study", "devices", "max_failures", "dry", "status", "plan", "objective")


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved config that decides the figures.

    Keys of ``grouping`` that its rule does not read are left out, and without a draft so are the rule and gamma:
    a sweep that crosses them with others asks for the same run several times, and gets it once. ``fingerprints`` tell
    what lies at its paths, as weights may change under the same name.
    """
    run = {key: copy.deepcopy(value) for key, value in config.items() if key not in _ASIDE}
    device = pick_device(run["device"])
    run["device"] = str(device)
    run["metrics"] = metric_nodes(run["metrics"])
    _reduce_engine(run)
    if is_built(run["draft"]):
        asked = inspect.signature(constructor(run["grouping"][TARGET])).parameters
        run["grouping"] = {key: value for key, value in run["grouping"].items() if key in asked or key == TARGET}
    else:
        run["draft"] = run["grouping"] = None
        del run["decoding"]["gamma"]
        run["decoding"].pop("baseline", None)
        for key in ("mode", "candidates", "sound_every"):
            run["decoding"].pop(key, None)
    if run["decoding"].get("mode", "speculative") != "speculative":  # token by token
        del run["decoding"]["gamma"]
        run["decoding"].pop("sound_every", None)  # nothing is tested
    if run["decoding"].get("sound_every") is None:
        run["decoding"].pop("sound_every", None)
    if run["decoding"].get("repetition_penalty", 1) == 1 or run["decoding"].get("penalty_window") is None:
        run["decoding"].pop("penalty_window", None)
    if run["decoding"].get("chunk") == Decoding.chunk:  # as runs were before it could be chosen
        run["decoding"].pop("chunk", None)
    if run["decoding"].get("ras") is None:
        run["decoding"].pop("ras", None)
    compiled = run["decoding"].get("compile", False)
    if compiled is False or (compiled == "auto" and device.type != "cuda"):
        run["decoding"].pop("compile", None)  # as ever
    run["fingerprints"] = fingerprints(run)
    return run


def _reduce_engine(run: dict[str, Any]) -> None:
    """Our own loop is the run without an engine. Another engine's version decides the figures as the weights do; it
    decodes no baseline beside the run, compiles as it will, and has its own word for how many utterances are decoded
    together.

    Raises:
        ConfigError: it is not installed.
    """
    node = run.pop("engine", None)
    if is_built(node):
        make: Any = constructor(node[TARGET])
        run["engine"] = {**node, "name": make.name, "version": make.version()}
        for key in ("baseline", "batch_size", "compile", "sound_every"):
            run["decoding"].pop(key, None)


def run_id(run: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits of a canonical config's hash, in which ``1`` and ``1.0`` are the same number.

    Compiled and plain runs say the same tokens in other times, so they are two; but ``auto``, which is left where it
    means ``true`` and only forgives more, is no third.
    """
    if run["decoding"].get("compile") == "auto":
        run = {**run, "decoding": {**run["decoding"], "compile": True}}
    if is_built(run["draft"]) and name_of(run["draft"]) == "eagle":
        run = {**run, "draft": {"budget": None, **run["draft"]}}  # a key that is gone: such runs keep their ids
    return hashlib.blake2b(json.dumps(_numbers(run), sort_keys=True).encode(), digest_size=5).hexdigest()


def _numbers(value: Any) -> Any:
    """A value in which whole numbers are whole numbers, however they were typed: ``1.0``, ``1e3``, ``-0.0``."""
    if isinstance(value, Mapping):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def method(run: Mapping[str, Any]) -> str:
    """What a person calls the run's method: ``target alone``, ``exact``, ``pcg``, ..."""
    return "target alone" if run["grouping"] is None else name_of(run["grouping"])


def engine(run: Mapping[str, Any]) -> str:
    """What decodes a run (canonical): ``own`` or the engine's name."""
    return run["engine"]["name"] if run.get("engine") else "own"


def name_of(node: Mapping[str, Any]) -> str:
    """The module of a ``_target_``, which is what its YAML is called: ``pcg.groups.knn.KNN`` is ``knn``."""
    return str(node[TARGET]).split(".")[-2]


def theta(run: Mapping[str, Any]) -> float | None:
    """The similarity threshold of the run's groups, or of those whose sizes random groups have; four digits of it."""
    groups = (run["grouping"] or {}).get("groups") or {}
    found = groups.get("theta", groups.get("like", {}).get("theta"))
    return None if found is None else round(found, 4)


def label(run: Mapping[str, Any]) -> str:
    """The method with the settings of its rule: ``pcg theta=0.4``, ``ssd beta=0.4``, ``pcg groups=knn``.

    Numbers are always told, other settings where they differ from the rule's own default.
    """
    grouping = run["grouping"] or {}
    asked = inspect.signature(constructor(grouping[TARGET])).parameters if grouping else {}
    settings = {
        key: value
        for key, value in grouping.items()
        if key in asked and not isinstance(value, Mapping)
        and (isinstance(value, int | float) or value != asked[key].default)
    }  # fmt: skip
    if is_built(grouping.get("groups")) and name_of(grouping["groups"]) != "cosine":
        settings = {"groups": name_of(grouping["groups"]), **settings}
    if theta(run) is not None:
        settings = {"theta": theta(run), **settings}
    if is_built(run.get("engine")):
        settings["engine"] = engine(run)
    return " ".join([method(run), *(f"{key}={_numbers(value)}" for key, value in settings.items())])
