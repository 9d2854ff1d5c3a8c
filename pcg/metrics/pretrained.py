"""Shared by the metrics: finding installed packages, 16 kHz samples, one torch thread, devices."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soxr
import torch

from pcg.types import Audio

# Their dependencies do not install or are not needed; only their weights are used.
WITHOUT_DEPENDENCIES = "Resemblyzer==0.1.4 distillmos==0.9.1 xls-r-sqa==0.1.0"
SAMPLE_RATE = 16_000  # Hz, of all recognisers and encoders


class MissingPart(ImportError):
    """A package that a metric needs is not installed."""


def require(package: str, metric: str) -> Path:
    """The folder of an installed package, found without importing it.

    Raises:
        MissingPart: it is not installed; the message has the command that installs it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPart(
            f"{metric} needs the package {package!r}, which is not installed; run `make install`, or "
            f"`pip install pcg[bundled]` and then `pip install --no-deps {WITHOUT_DEPENDENCIES}`; "
            "or set metrics=none"
        )
    return Path(spec.submodule_search_locations[0])


def samples_of(audio: Audio) -> np.ndarray:
    """float32 samples at 16 kHz."""
    samples = np.asarray(audio.samples, dtype=np.float32)
    if audio.sample_rate == SAMPLE_RATE or not len(samples):
        return samples
    return soxr.resample(samples, audio.sample_rate, SAMPLE_RATE)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Small networks run fastest on one thread of a shared machine, and always give the same result."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def device_of(name: str) -> torch.device:
    """The device of a name; ``auto`` is the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
