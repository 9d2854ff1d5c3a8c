"""The tests of ``graphed.py``, in a process where types are not checked, which dynamo does not see through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
def test_graphs() -> None:
    options = ["-q", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", "--show-capture=no"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(HERE / "graphed.py")],
        cwd=HERE.parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
