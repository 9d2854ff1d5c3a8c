"""A run of tiny parts in a process of its own, to be killed: ``python -m tests.tiny.killed CONFIG.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pcg.runner.run import run_once
from tests.tiny import worker as tiny_worker


def main(path: Path) -> None:
    tiny_worker.register()
    print("begins", flush=True)
    run_once(json.loads(path.read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
