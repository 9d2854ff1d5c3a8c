"""The environment of a result: versions, commit, device, memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("pcg", "torch", "numpy", "transformers", "hydra-core", "wandb", "moonshine-voice", "pocketsphinx")


def about(device: torch.device) -> dict[str, Any]:
    """The commit, versions and device that figures were made with, as every file of results records them."""
    return {"git": git(), "versions": versions(), "device": device_name(device)}


@cache
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that figures depend on; None for one that is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def git() -> dict[str, Any]:
    """The commit of the code and whether it has uncommitted changes; None outside a git checkout (a wheel)."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@cache
def device_name(device: torch.device) -> str:
    """The name of the GPU or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"cpu ({line.partition(':')[2].strip()})"
    except OSError:
        pass
    return f"cpu ({platform.processor() or platform.machine()})"


def start_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory at once: allocated on the GPU since ``start_memory``, or by this process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_advice(error: Exception) -> str:
    """Advice for an error of a full device; empty for other errors."""
    if not isinstance(error, torch.OutOfMemoryError):
        return ""
    return (
        "; the device is full: lower decoding.batch_size or decoding.max_tokens, set metrics.when=after so that "
        "metrics do not share the device, or choose a smaller target or dtype; dry=true says what fits"
    )
