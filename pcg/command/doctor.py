"""``pcg doctor``: what is installed, what is missing for which choice and how to get it, which device, which folders.

It loads no model and writes nothing. What a choice needs is read from the code behind its ``_target_``: the packages
of pcg's extras that it imports, or names to ``require``.
"""

from __future__ import annotations

import ast
import importlib.util
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

from pcg.command.folders import CLONE, CONF, install_line
from pcg.engines.engine import INSTALL

_IMPORTED_AS = {"hibari-tts": "hibari"}  # where it is not the distribution's own name
_GROUPS = (
    "target",
    "draft",
    "text",
    "codec",
    "dataset",
    "grouping",
    "grouping/groups",
    "engine",
    "metrics",
    "logger",
    "trainer",
)
_NOT_TO_RUN = ("dev", "test", "lint")


@dataclass(frozen=True)
class Need:
    """One requirement of pcg, and the line that meets it."""

    requirement: Requirement
    line: str

    @property
    def problem(self) -> str | None:
        """``x is missing``, ``x 1.0 is not x>=2``, or None."""
        name, wanted = self.requirement.name, self.requirement.specifier
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            return f"{name} is missing"
        return None if wanted.contains(found, prereleases=True) else f"{name} {found} is not {name}{wanted}"


@dataclass(frozen=True)
class Importable(Need):
    """What comes from packages of several names: it is there when it can be imported."""

    @property
    def problem(self) -> str | None:
        name = self.requirement.name
        return None if importlib.util.find_spec(name) else f"{name} is missing"


def main(arguments: Sequence[str]) -> int:
    """Print the report; the exit status, 0 if the default run would work."""
    if arguments:
        print("pcg doctor takes nothing: it looks at the defaults and at every choice", file=sys.stderr)
        return 2
    kind = "a clone" if CLONE else "installed"
    print(f"pcg {metadata.version('pcg')} ({kind}: {CONF.parent}), Python {platform.python_version()} ({sys.prefix})")
    _section("packages", [f"{need.requirement.name} {_version(need)}" for need in core()])
    if problems := _problems(core()):
        _section("the default run would not work", problems)  # nor would the rest of this report
        return 1
    _section("choices that are ready, and what the others need", list(_choices()))
    _section("device", list(_devices()))
    _section("folders", [line for line, _ in _folders()])
    problems = list(_problems_of_default_run())
    _section("the default run (`pcg run`) would " + ("not work" if problems else "work"), problems)
    return 1 if problems else 0


def _section(title: str, lines: Iterable[str]) -> None:
    print("\n".join([f"\n{title}", *(f"  {line}" for line in lines)]))


def core() -> list[Need]:
    """What pcg cannot be imported without."""
    return [Need(each, f"pip install '{each}'") for each in _requirements() if each.marker is None]


@cache
def optional() -> tuple[Need, ...]:
    """What some choices need: each from the smallest extra that holds it, or by itself."""
    from pcg.metrics.pretrained import WITHOUT_DEPENDENCIES

    by_extra: dict[str, list[Requirement]] = {}
    for each in _requirements():
        if (extra := _extra(each)) and extra not in _NOT_TO_RUN:
            by_extra.setdefault(extra, []).append(each)
    found: dict[str, Need] = {}
    for extra, held in sorted(by_extra.items(), key=lambda item: (len(item[1]), item[0])):
        for each in held:
            found.setdefault(each.name, Need(each, install_line(extra)))
    bare = [Need(Requirement(text), f"pip install --no-deps {text}") for text in WITHOUT_DEPENDENCIES.split()]
    return (*found.values(), *bare, *(Importable(Requirement(name), line) for name, line in INSTALL.items()))


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires("pcg") or []]


def _extra(requirement: Requirement) -> str | None:
    found = re.search(r"extra == ['\"]([\w-]+)['\"]", str(requirement.marker or ""))
    return found and found.group(1)


def _version(need: Need) -> str:
    try:
        return metadata.version(need.requirement.name)
    except metadata.PackageNotFoundError:
        return "MISSING"


def _problems(wanted: Iterable[Need]) -> list[str]:
    return [f"{need.problem}: {need.line}" for need in wanted if need.problem]


def _choices() -> Iterator[str]:
    """A group a line with what is ready, then a line for those that lack the same."""
    from pcg.command.launching import EXTRAS

    wanted = {group: {name: needs_of(group, name) for name in _names(group)} for group in _GROUPS}
    for group, plugins in EXTRAS.items():  # hydra-joblib-launcher, hydra-submitit-launcher, submitit, ...
        wanted[group] = {
            name: [need for need in optional() if name.partition("_")[0] in need.requirement.name] for name in plugins
        }
    for group, choices in wanted.items():
        by_lack: dict[str, list[str]] = {"": []}
        for name, asked in choices.items():
            by_lack.setdefault("; ".join(_problems(asked)), []).append(name)
        yield f"{group:<16} {' '.join(by_lack.pop('')) or '-'}"
        yield from (f"{'':<16} {' '.join(names)}: {lack}" for lack, names in by_lack.items())


def _names(group: str) -> list[str]:
    return [path.stem for path in sorted((CONF / group).glob("*.yaml"))]


def needs_of(group: str, choice: str) -> list[Need]:
    """What a choice needs beyond the core, with what other choices that it is made of need."""
    import yaml

    node = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8")) or {}
    inherited = [(group, name) for name in node.get("defaults", []) if isinstance(name, str) and name != "_self_"]
    for entry in node.get("defaults", []):
        if isinstance(entry, Mapping):  # {"/text@text": "llasa"}: a choice of another group
            inherited += [(key.strip("/").partition("@")[0], name) for key, name in entry.items() if key[0] == "/"]
    names = {name for target in _targets(node) for name in _named(target.rpartition(".")[0])}
    found = [need for need in optional() if _imported_as(need) in names]
    for other in inherited:
        found += [need for need in needs_of(*other) if need not in found]
    return found


def _imported_as(need: Need) -> str:
    name = need.requirement.name.lower()
    return _IMPORTED_AS.get(name, name.replace("-", "_"))


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if str(node.get("_target_")).startswith("pcg."):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)


@cache
def _named(module: str) -> frozenset[str]:
    """Packages that a module imports anywhere, and its strings, as those that it names to ``require`` are."""
    spec = importlib.util.find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
    return frozenset(found)


def _devices() -> Iterator[str]:
    import torch

    from pcg.results.environment import device_name

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield f"{device_name(torch.device('cpu'))}, {usable} of {os.cpu_count()} cores, {torch.get_num_threads()} thread(s)"
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"cuda:{index} ({found.name}, {found.total_memory / 2**30:.0f} GiB)"
    if not torch.cuda.is_available():
        yield "no CUDA device" if torch.version.cuda else f"no CUDA: torch {torch.__version__} is built without it"


def _folders() -> Iterator[tuple[str, bool]]:
    """What is kept where, and whether it can be written."""
    import yaml

    from pcg.files import cache_folder

    outputs = yaml.safe_load((CONF / "paths" / "default.yaml").read_text(encoding="utf-8"))["outputs"]
    hub = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    places = (("results", outputs, "paths.outputs"), ("groups", cache_folder(), "$PCG_CACHE"), ("hub", hub, "$HF_HOME"))
    for name, place, changed_by in places:
        path = Path(place).absolute()
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        good = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
        state = "can be written" if good else f"CANNOT be written: {there}"
        yield f"{name:<8} {path} ({changed_by}): {state}, {shutil.disk_usage(there).free / 1e9:.1f} GB free", good


def _problems_of_default_run() -> Iterator[str]:
    """What `pcg run` lacks: packages of its choices, a folder for its results, a config that is right."""
    import yaml

    from pcg.command import cli
    from pcg.config.validate import ConfigError

    for entry in yaml.safe_load((CONF / "run.yaml").read_text(encoding="utf-8"))["defaults"]:
        for group, choice in entry.items() if isinstance(entry, Mapping) else ():
            if group in _GROUPS:
                yield from (f"{group}={choice}: {problem}" for problem in _problems(needs_of(group, choice)))
    line, good = next(_folders())
    if not good:
        yield line
    try:
        cli.check_command_line("run", [])
    except ConfigError as error:
        yield from error.problems
