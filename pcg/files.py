"""Paths: where what is kept between runs lies, and what is wrong with a path that a user gave."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EDQUOT)


def cache_folder() -> Path:
    """Where what takes long to make is kept between runs: ``$PCG_CACHE``, else ``pcg`` in the user's cache folder."""
    return Path(os.environ.get("PCG_CACHE") or "~/.cache/pcg").expanduser()


def absent(path: Path) -> str | None:
    """Why there is nothing at a path, for an error message; None where there is something."""
    return None if path.exists() else dead_link(path) or f"{path}: no such file or folder"


def dead_link(path: Path) -> str | None:
    """Which link leads nowhere, of a path or the folders that it lies in; None where none does."""
    link = next((each for each in (path, *path.parents) if each.is_symlink() and not each.exists()), None)
    return None if link is None else f"{link} is a link to {link.readlink()}, which is not there"


def no_file(path: Path) -> str | None:
    """Why a path is no file that can be read; None where it is one."""
    return None if path.is_file() else absent(path) or f"{path} is a folder, expected a file"


def no_folder(path: Path) -> str | None:
    """Why a path is no folder; None where it is one."""
    return None if path.is_dir() else absent(path) or f"{path} is a file, expected a folder"


def unwritable(error: BaseException) -> bool:
    """Whether an error is of a file system that does not take what is written: rights, space, a file for a folder."""
    return getattr(error, "errno", None) in _UNWRITABLE
