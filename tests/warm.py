"""Commands in processes of their own, forked from one that has imported what all of them import: a start takes three
seconds of CPU otherwise, nearly all of it torch.

What a new interpreter decides by itself (locale, `-c`, an installed program) is tried with a real one; this is for what
a command does after that. Nothing but imports has happened in the process that is forked.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
# One process is forked from for all tests of this Python, those of `pcg.runner.devices` too, which needs the first.
_PRELOADED = ["pcg.runner.worker", "pcg.command.cli"]


def start(
    program: Path, arguments: Sequence[str], folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """``python PROGRAM ARGUMENTS`` in a folder, with what it printed.

    Args:
        environment: beside this process's.
    """
    _FORKS.set_forkserver_preload(_PRELOADED)  # counts until the first process is forked
    with tempfile.TemporaryDirectory() as streams:
        files = [Path(streams) / name for name in ("out", "err")]
        process = _FORKS.Process(
            target=_run, args=(program, list(arguments), folder, {**os.environ, **environment}, files)
        )
        process.start()
        process.join(timeout=280)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{program} {arguments}: still running after 280 s")
        out, err = (file.read_text(encoding="utf-8") for file in files)
    return subprocess.CompletedProcess([str(program), *arguments], process.exitcode, out, err)


def _run(program: Path, arguments: list[str], folder: Path, environment: Mapping[str, str], files: list[Path]) -> None:
    for descriptor, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (open(descriptor, "w", encoding="utf-8", closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [str(program), *arguments]
    sys.path[0] = str(program.parent)
    try:
        runpy.run_path(str(program), run_name="__main__")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
