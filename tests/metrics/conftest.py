"""Clips of the bundled test set, and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from pcg.data.bundled import Bundled
from pcg.results.schema import quality
from pcg.types import Audio, Figure, Utterance


def quality_of(rows: Sequence[dict[str, Any]], figures: Mapping[str, Figure]) -> dict[str, Any]:
    """The figures of a metric over its rows, as a run has them."""
    return quality({0: dict(enumerate(rows))}, figures)


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
