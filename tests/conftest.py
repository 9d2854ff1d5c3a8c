"""What all tests share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
import torch
import yaml
from hypothesis import settings
from jaxtyping import config

os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads; asking a hub that is out of reach takes seconds
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers have this one's: what one builds and measures serves the others
    os.environ["PCG_CACHE"] = tempfile.mkdtemp(prefix="pcg-tests-")
    atexit.register(shutil.rmtree, os.environ["PCG_CACHE"], ignore_errors=True)
yaml.SafeLoader = yaml.CSafeLoader  # Hydra reads conf/ anew for every command line, in pure Python if left to itself
# a loaded machine is slow, not wrong; and the same examples every time
settings.register_profile("pcg", deadline=None, derandomize=True)
settings.load_profile("pcg")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def types_unchecked() -> Iterator[None]:
    """For tests of very many rounds, which looking at every tensor's type makes twice as long: shorter ones do that."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests begin first: the last of them, begun late, would be waited for by the other cores."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
