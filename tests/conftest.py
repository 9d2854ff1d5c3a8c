"""What all tests share."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["PCG_CACHE"] = tempfile.mkdtemp(prefix="pcg-tests-")
# a loaded machine is slow, not wrong; and the same examples every time
settings.register_profile("pcg", deadline=None, derandomize=True)
settings.load_profile("pcg")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
