"""Launchers and sweepers: our defaults for their plugins, and what is wrong with how a sweep is started."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from pcg.command.folders import install_line
from pcg.config.settings import pick_device
from pcg.config.values import study_folder

# Choice -> the extra in pyproject.toml that brings its plugin.
EXTRAS = {
    "hydra/launcher": {"joblib": "sweeps", "submitit_local": "sweeps", "submitit_slurm": "sweeps", "ray": "ray"},
    "hydra/sweeper": {"optuna": "sweeps"},
}


def runs_at_once(device: str, devices: int, threads: int) -> int:
    """How many runs this machine has room for: one on a GPU, since all would take the same; else as its cores allow."""
    if pick_device(device).type == "cuda":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // cores_of_run(devices, threads))


def cores_of_run(devices: int, threads: int) -> int:
    """Cores that a run needs: it has a process a device."""
    return int(devices) * int(threads)


def gpus_of_run(device: str, devices: int) -> int:
    """How many GPUs a scheduler must give a run; ``auto`` asks for GPUs where this machine has one."""
    wanted = str(device).startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return int(devices) if wanted else 0


def sweep_folder(outputs: str, study: str, *asking: bool) -> str:
    """The folder of Hydra's own files: that of the results, or a temporary one for a command that runs nothing."""
    return _temporary().name if any(asking) else str(study_folder(outputs, study))


@cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="pcg-")


def set_defaults(conf: Path) -> None:
    """Merge ``conf/hydra/*_settings/`` into the plugins' own defaults, whose types are still checked.

    YAMLs named after the plugins in ``conf/hydra/launcher`` would be simpler, but Hydra refuses them beside typed ones.
    """
    for resolver in (runs_at_once, cores_of_run, gpus_of_run, sweep_folder):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    Plugins.instance()  # imports the plugins, which put their defaults into the store
    for group, names in EXTRAS.items():
        for name in names:
            _merge(group, name, OmegaConf.load(conf / f"{group}_settings" / f"{name}.yaml"))
    for sampler in ("tpe", "random", "cmaes", "nsgaii", "motpe"):
        _merge("hydra/sweeper/sampler", sampler, OmegaConf.create({"seed": "${seed}"}))


def _merge(group: str, name: str, settings: Any) -> None:
    """Merge settings into the defaults that a plugin has stored, if the plugin is installed."""
    store = ConfigStore.instance()
    if store.get_type(f"{group}/{name}.yaml") == ObjectType.CONFIG:
        own = store.load(f"{group}/{name}.yaml")
        store.store(name, OmegaConf.merge(own.node, settings), group=group, provider="pcg")


def missing_extra(group: str, choice: str) -> str:
    """``; it comes with an extra: ...`` for a choice whose plugin is not installed; else an empty text."""
    extra = EXTRAS.get(group, {}).get(choice)
    return f"; it comes with an extra: {install_line(extra)}" if extra else ""


def texts(override: Override) -> list[str]:
    """The values of an override as they are written on a command line; the two ends of an interval."""
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [str(value.start), str(value.end)]
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    return [override.get_value_element_as_str()]


def problems(config: Mapping[str, Any], overrides: Sequence[Override]) -> list[str]:
    """What is wrong with how a sweep is started.

    Args:
        config: composed for a multirun, with its ``hydra`` node.
        overrides: of the sweep; the last of each key counts.
    """
    hydra = config["hydra"]
    launcher, sweeper = hydra["launcher"]["_target_"], hydra["sweeper"]["_target_"]
    optuna = "optuna" in sweeper
    wrong = _problems_of_search(config) if optuna else []
    latest = {override.get_key_element(): override for override in overrides}
    wrong += [
        f"{item.input_line}: an interval needs hydra/sweeper=optuna"
        for item in latest.values()
        if not optuna and item.is_sweep_override() and item.is_interval_sweep()
    ]
    if launcher.endswith(".LocalLauncher"):
        wrong += _too_many(config, math.prod(len(texts(item)) for item in latest.values()))
    return wrong


def _problems_of_search(config: Mapping[str, Any]) -> list[str]:
    wrong = [
        f"{key}=true: a search does not know its runs beforehand; use {key}=true with the basic sweeper"
        for key in ("status", "dry")
        if config.get(key)
    ]
    if config.get("objective") is None:
        wrong.append("objective: hydra/sweeper=optuna needs one, e.g. 'objective={maximise: speed.speedup}'")
    direction = config["hydra"]["sweeper"]["direction"]
    if direction != "maximize":  # a run that breaks a limit has the lowest value
        wrong.append(f"hydra.sweeper.direction={direction}: an objective is maximised, leave it at maximize")
    return wrong


def _too_many(config: Mapping[str, Any], runs: int) -> list[str]:
    """submitit starts all runs that the sweeper gives it at once; these may be more than the machine has room for.

    Args:
        runs: points of the grid; a search proposes ``n_trials`` of them instead.
    """
    sweeper = config["hydra"]["sweeper"]
    key = "n_jobs" if "n_jobs" in sweeper else "max_batch_size"
    runs = sweeper.get("n_trials", runs)
    room = runs_at_once(config["device"], config.get("devices", 1), config["threads"])
    if min(sweeper[key] or runs, runs) <= room:
        return []
    return [f"hydra/launcher=submitit_local: starts all runs at once, and this machine has room for {room}: "
            f"add hydra.sweeper.{key}={room}"]  # fmt: skip
