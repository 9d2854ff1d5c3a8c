"""Paths: where what is kept between runs lies, and what is wrong with a path that a user gave."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where what takes long to make is kept between runs: ``$PCG_CACHE``, else ``pcg`` in the user's cache folder."""
    return Path(os.environ.get("PCG_CACHE") or "~/.cache/pcg").expanduser()


def absent(path: Path) -> str | None:
    """Why there is nothing at a path, for an error message; None where there is something."""
    if path.exists():
        return None
    link = next((each for each in (path, *path.parents) if each.is_symlink() and not each.exists()), None)
    if link is not None:
        return f"{link} is a link to {link.readlink()}, which is not there"
    return f"{path}: no such file or folder"
