"""A run of tiny parts in a process of its own, to be killed: ``python -m tests.runner.killed CONFIG.json``."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

from pcg.runner.run import run_once
from tests.runner import parts_for_tests


def main(path: Path) -> None:
    for _, part in inspect.getmembers(parts_for_tests, inspect.isclass):
        if part.__module__ == parts_for_tests.__name__:
            part.__module__ = "pcg.tiny"  # a config may only name what lies inside pcg
    sys.modules["pcg.tiny"] = parts_for_tests
    print("begins", flush=True)
    run_once(json.loads(path.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
