"""The console command: ``pcg NAME [overrides]`` is ``python experiments/NAME.py [overrides]``, from any folder.

Each program in experiments/ is a command. ``doctor``, ``inspect`` and ``ratings``, which take no config, are modules of
this package. Only the command that is started is imported.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import types
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pcg.command.folders import EXPERIMENTS
from pcg.command.pipes import may_be_closed

_HELP = ("-h", "--help", "help")
_COMPLETION = ("-sc", "--shell-completion")
_WITHOUT_CONFIG = {
    "doctor": "what is installed, what is missing for which choice, which device there is, where results go",
    "ratings": "which method the listeners of a blind test preferred: pcg ratings FILE ...",
    "inspect": "what a model folder is, what it lacks, which groups its table makes at which theta, which line runs it",
}


@may_be_closed()
def main() -> None:
    """Run the command that the command line names; an unknown one ends the program with status 2."""
    name, *arguments = sys.argv[1:] or _HELP[:1]
    if name in _COMPLETION:
        _complete(sys.argv[1:])
    elif name in _HELP:
        print(listing())
    elif name == "--version":
        print(f"pcg {metadata.version('pcg')}")
    elif name in _WITHOUT_CONFIG:
        sys.exit(importlib.import_module(f"pcg.command.{name}").main(arguments))
    elif name in programs():
        run(name, arguments)
    else:
        from pcg.config.validate import nearest  # it imports torch, which takes seconds

        print(f"pcg {name}: there is no such command{nearest(name, [*programs(), *_WITHOUT_CONFIG])}", file=sys.stderr)
        sys.exit(2)


def programs() -> dict[str, Path]:
    """The entry points by name, ``run`` first."""
    paths = sorted(EXPERIMENTS.glob("*.py"), key=lambda path: (path.stem != "run", path.stem))
    return {path.stem: path for path in paths}


def listing() -> str:
    """Every command with its purpose: the first words of its program."""
    docstrings = {name: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for name, path in programs().items()}
    purposes = {name: str(text).partition(": ")[0] for name, text in docstrings.items()} | _WITHOUT_CONFIG
    lines = [f"  {name:<11} {purpose[0].lower()}{purpose[1:]}" for name, purpose in purposes.items()]
    return "\n".join(["pcg COMMAND [key=value ...]; pcg COMMAND --help lists its keys", "", *lines])


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a program as ``python FILE`` would, so that launchers and workers find its ``__main__``.

    Unlike ``runpy`` it gives the program the name ``pcg NAME`` in usage lines, and ``pcg`` in shell completion.
    """
    program = programs()[name]
    sys.argv = ["pcg" if set(arguments) & {*_COMPLETION} else f"pcg {name}", *arguments]
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    module.__file__ = str(program)
    exec(compile(program.read_text(encoding="utf-8"), str(program), "exec"), module.__dict__)


def _complete(arguments: Sequence[str]) -> None:
    """Install shell completion, or complete a line: commands for the first word, keys and choices for the others."""
    if not arguments[-1].startswith("query="):
        return run("run", arguments)
    program, name, rest = re.fullmatch(r"\s*(\S*)\s*(\S*)(.*)", os.environ.get("COMP_LINE", "")).groups()  # type: ignore[union-attr]
    if rest and name in programs():
        os.environ["COMP_LINE"] = program + rest
        return run(name, arguments)
    commands = [] if rest else [*programs(), *_WITHOUT_CONFIG]
    return print(" ".join(command for command in commands if command.startswith(name)))
