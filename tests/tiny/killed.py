"""A run of tiny parts in a process of its own, to be killed: ``python -m tests.tiny.killed CONFIG.json``."""

from __future__ import annotations

import json
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

from pcg.runner.run import run_once
from tests.tiny import worker as tiny_worker


def live(path: Path, begins: Event | None = None) -> None:
    """Run what ``path`` asks for, and say when all is imported."""
    tiny_worker.register()
    if begins is not None:
        begins.set()
    run_once(json.loads(path.read_text()))


if __name__ == "__main__":
    live(Path(sys.argv[1]))
