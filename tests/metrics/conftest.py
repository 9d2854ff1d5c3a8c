"""Clips of the bundled test set, and noise."""

from __future__ import annotations

import numpy as np
import pytest

from pcg.data.bundled import Bundled
from pcg.types import Audio, Utterance


@pytest.fixture(scope="session")
def spoken() -> list[tuple[Utterance, Audio]]:
    """One utterance of each speaker."""
    return [(u, u.load_reference()) for u in Bundled(limit=8)]


@pytest.fixture
def noise() -> Audio:
    return Audio(np.random.default_rng(0).normal(0, 0.1, 48_000).astype(np.float32), 16_000)


@pytest.fixture
def nothing() -> Audio:
    return Audio(np.zeros(0, dtype=np.float32), 16_000)
