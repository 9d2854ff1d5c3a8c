"""What the runs of a table are called, and in which order they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcg.config.build import TARGET
from pcg.config.identity import name_of, theta
from pcg.types import Result

_METHODS = ("target alone", "exact")  # come first; the rest by name and theta
_PARTS = ("target.", "draft.", "codec.", "dataset.")  # groups of the config that are named by what they build


def in_order(results: Sequence[Result]) -> list[Result]:
    """Target alone, exact, then the other methods by name, theta and the swept settings of decoding."""

    def order(result: Result) -> tuple[Any, ...]:
        values = result.values
        first = _METHODS.index(values["method"]) if values["method"] in _METHODS else len(_METHODS)
        at, decoding = theta(values["config"]), values["config"]["decoding"]
        decoding = {**decoding, "batch_size": decoding.get("batch_size") or values["engine"]["concurrency"]}
        swept = [decoding.get(key) or 0 for key in ("temperature", "batch_size", "gamma")]
        return (first, values["method"], -1.0 if at is None else at, values["label"], swept, values["run_id"])

    return sorted(results, key=order)


def labels(results: Sequence[Result]) -> list[str]:
    """The name of each run; with its study in brackets where there are several studies."""
    studies = [result.values["study"] for result in results]
    if len(set(studies)) == 1:
        return run_names(results)
    return [f"{name} ({study})" for name, study in zip(run_names(results), studies, strict=True)]


def run_names(results: Sequence[Result]) -> list[str]:
    """Each run's label with every other setting in which the runs differ; digests of what they read only if two runs
    would have the same name without."""
    names = _distinct_names(results, fingerprints=False)
    return names if len(set(names)) == len(names) else _distinct_names(results, fingerprints=True)


def _distinct_names(results: Sequence[Result], fingerprints: bool) -> list[str]:
    settings = [_settings(result.values["config"]) for result in results]
    varying = [
        key
        for key in dict.fromkeys(key for setting in settings for key in setting)
        if (fingerprints or not key.startswith("fingerprints."))
        and len({str(setting[key]) for setting in settings if key in setting}) > 1
    ]
    return [
        " ".join([result.values["label"], *(f"{_leaf(key)}={setting[key]}" for key in varying if key in setting)])
        for result, setting in zip(results, settings, strict=True)
    ]


def _settings(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Settings by dotted key, without those that the label shows. A part is named by its path, or else its class."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        shown = path == "grouping." or (path.startswith("grouping.") and key in ("theta", TARGET))
        shown |= (key, value) == ("source", "target_input") or (path in _PARTS and key in (TARGET, "path"))
        if f"{path}{key}." in _PARTS and value:
            flat[key] = (value.get("path") or name_of(value)).rpartition("/")[2]
        if path in _PARTS and key == "text":
            continue  # is the same for the same model
        if isinstance(value, Mapping):
            flat |= _settings(value, f"{path}{key}.")
        elif value is not None and not shown:
            flat[path + key] = value
    return flat


def _leaf(key: str) -> str:
    group, _, leaf = key.rpartition(".")
    return group.rpartition(".")[2] if leaf == TARGET else leaf
