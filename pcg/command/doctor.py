"""``pcg doctor``: what is installed, what is missing for which choice and how to get it, which device, which folders.

It loads no model and writes nothing. What a choice needs is read from the code behind its ``_target_``: the packages
of pcg's extras that the module imports, or whose names it passes to ``require``.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from pcg.command.folders import CLONE, CONF, choice, choices, install_line
from pcg.engines.engine import INSTALL

_IMPORTED_AS = {"hibari-tts": "hibari"}  # packages that are imported by another name
_GROUPS = ("target", "draft", "text", "codec", "dataset", "grouping", "grouping/groups", "engine", "metrics", "logger",
           "trainer")  # fmt: skip
_ONLY_WITH = {"pcg.models.espeak": "phonemes"}  # modules that matter to a choice only if it sets this key
_DEVELOPERS = ("dev", "test", "lint")  # extras that no choice needs


@dataclass(frozen=True)
class Need:
    """A package that pcg or a choice needs.

    Attributes:
        line: what to type to install it.
        any_version: whether it is only imported, since several distributions provide it.
    """

    requirement: Requirement
    line: str
    any_version: bool = False

    @property
    def imported_as(self) -> str:
        name = self.requirement.name.lower()
        return _IMPORTED_AS.get(name, name.replace("-", "_"))

    @property
    def version(self) -> str | None:
        """The installed version; None where it is not installed."""
        try:
            return metadata.version(self.requirement.name)
        except metadata.PackageNotFoundError:
            return None

    @property
    def problem(self) -> str | None:
        """``x is missing``, ``x 1.0 is not x>=2``, or None."""
        name, wanted = self.requirement.name, self.requirement.specifier
        if self.any_version:
            return None if importlib.util.find_spec(name) else f"{name} is missing"
        version = self.version
        if version is None:
            return f"{name} is missing"
        return None if wanted.contains(version, prereleases=True) else f"{name} {version} is not {name}{wanted}"


def main(arguments: Sequence[str]) -> int:
    """Print the report; returns the exit status, 0 if the default run would work."""
    if arguments:
        print("pcg doctor takes no arguments: it reports on the defaults and on every choice", file=sys.stderr)
        return 2
    kind = "a clone" if CLONE else "installed"
    print(f"pcg {metadata.version('pcg')} ({kind}: {CONF.parent}), Python {platform.python_version()} ({sys.prefix})")
    _section("packages", [f"{need.requirement.name} {need.version or 'MISSING'}" for need in core()])
    if problems := _problems(core()):
        _section("the default run would not work", problems)  # and the rest of the report cannot be made
        return 1
    _section("choices that are ready, and what the others need", _choices())
    _section("device", _devices())
    _section("folders", [line for line, _ in _folders()])
    problems = list(_problems_of_default_run())
    _section("the default run (`pcg run`) would " + ("not work" if problems else "work"), problems)
    return 1 if problems else 0


def _section(title: str, lines: Iterable[str]) -> None:
    print("\n".join([f"\n{title}", *(f"  {line}" for line in lines)]))


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires("pcg") or []]


def core() -> list[Need]:
    """The packages without which pcg cannot be imported."""
    return [Need(package, f"pip install '{package}'") for package in _requirements() if package.marker is None]


@cache
def optional() -> tuple[Need, ...]:
    """The packages that some choices need, each with the smallest extra that installs it."""
    from pcg.metrics.pretrained import WITHOUT_DEPENDENCIES

    by_extra: dict[str, list[Requirement]] = {}
    for requirement in _requirements():
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
        if extra and extra[1] not in _DEVELOPERS:
            by_extra.setdefault(extra[1], []).append(requirement)
    needs: dict[str, Need] = {}
    for name, requirements in sorted(by_extra.items(), key=lambda item: (len(item[1]), item[0])):
        for requirement in requirements:
            needs.setdefault(requirement.name, Need(requirement, install_line(name)))
    bare = [Need(Requirement(text), f"pip install --no-deps {text}") for text in WITHOUT_DEPENDENCIES.split()]
    return (*needs.values(), *bare, *(Need(Requirement(name), line, True) for name, line in INSTALL.items()))


def _problems(needs: Iterable[Need]) -> list[str]:
    return [f"{need.problem}: {need.line}" for need in needs if need.problem]


def _choices() -> Iterator[str]:
    """For each group a line of the choices that are ready, then a line for each set of others that lack the same."""
    from pcg.command.launching import EXTRAS

    needs = {group: {name: needs_of(group, name) for name in choices(group)} for group in _GROUPS}
    for group, plugins in EXTRAS.items():  # hydra-joblib-launcher, hydra-submitit-launcher, submitit, ...
        needs[group] = {
            name: [need for need in optional() if name.partition("_")[0] in need.requirement.name] for name in plugins
        }
    for group, by_choice in needs.items():
        by_lack: dict[str, list[str]] = {"": []}
        for name, needed in by_choice.items():
            by_lack.setdefault("; ".join(_problems(needed)), []).append(name)
        yield f"{group:<16} {' '.join(by_lack.pop('')) or '-'}"
        yield from (f"{'':<16} {' '.join(names)}: {lack}" for lack, names in by_lack.items())


def needs_of(group: str, name: str) -> list[Need]:
    """The packages that a choice needs beyond the core, those of the choices in its defaults among them."""
    nodes = list(_nodes(choice(group, name)))
    modules = {node["_target_"].rpartition(".")[0] for node in nodes}
    modules |= {module for module, key in _ONLY_WITH.items() if any(node.get(key) for node in nodes)}
    names = {imported for module in modules for imported in _names_in(module)}
    return [need for need in optional() if need.imported_as in names]


def _nodes(node: Any) -> Iterator[Mapping[str, Any]]:
    """The node and those inside it that name something of pcg to build."""
    if isinstance(node, Mapping):
        if str(node.get("_target_")).startswith("pcg."):
            yield node
        for value in node.values():
            yield from _nodes(value)


@cache
def _names_in(module: str, only: frozenset[str] | None = None) -> frozenset[str]:
    """The packages that a module imports anywhere, and its strings, which name those that it passes to ``require``.
    So do the functions and classes that it imports from pcg.

    Args:
        only: names of functions and classes, the only part that counts; None for the whole module.
    """
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    parts = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    names: set[str] = set()
    counted = [part for part in parts if only is None or getattr(part, "name", None) in only]
    for node in itertools.chain.from_iterable(map(ast.walk, counted)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
            if only is None and node.module.startswith("pcg.") and node.module not in _ONLY_WITH:
                names |= _names_in(node.module, frozenset(alias.name for alias in node.names))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return frozenset(names)


def _devices() -> Iterator[str]:
    import torch

    from pcg.results.environment import device_name

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"{device_name(torch.device('cpu'))}, {usable} of {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} ({gpu.name}, {gpu.total_memory / 2**30:.0f} GiB)"
    if not torch.cuda.is_available():
        yield "no CUDA device" if torch.version.cuda else f"no CUDA: torch {torch.__version__} is built without it"


def _folders() -> Iterator[tuple[str, bool]]:
    """A line for each folder that is written to, the results' first, and whether it can be written to."""
    from pcg.files import cache_folder

    outputs = choice("paths", "default")["outputs"]
    hub = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    folders = (
        ("results", outputs, "paths.outputs"),
        ("groups", cache_folder(), "$PCG_CACHE"),
        ("hub", hub, "$HF_HOME"),
    )
    for name, folder, changed_by in folders:
        path = Path(folder).absolute()
        existing = next(above for above in (path, *path.parents) if os.path.exists(above))
        good = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
        state = "can be written" if good else f"CANNOT be written: {existing}"
        free = shutil.disk_usage(existing).free / 1e9
        yield f"{name:<8} {path} ({changed_by}): {state}, {free:.1f} GB free", good


def _problems_of_default_run() -> Iterator[str]:
    """What is missing for `pcg run`: packages of its choices, a folder for its results, a config without mistakes."""
    import yaml

    from pcg.command import cli
    from pcg.config.validate import ConfigError

    for entry in yaml.safe_load((CONF / "run.yaml").read_text(encoding="utf-8"))["defaults"]:
        for group, name in entry.items() if isinstance(entry, Mapping) else ():
            if group in _GROUPS:
                yield from (f"{group}={name}: {problem}" for problem in _problems(needs_of(group, name)))
    line, good = next(_folders())
    if not good:
        yield line
    try:
        cli.check_command_line("run", [])
    except ConfigError as error:
        yield from error.problems
