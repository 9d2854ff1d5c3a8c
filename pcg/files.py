"""Paths and names of files: the cache folder, what is wrong with a path that a user gave, names that are too long."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

_DIGITS = 8  # of the digest in a shortened name
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


def within(text: str, most: int) -> str:
    """The text itself where it has at most ``most`` bytes of UTF-8; else what fits of it, and a digest of it all."""
    return text if len(text.encode()) <= most else marked(text, most, text)


def marked(text: str, most: int, meant: str) -> str:
    """As much of ``text`` as fits into ``most`` bytes of UTF-8, with a digest of what is ``meant`` by it."""
    digest = hashlib.blake2b(meant.encode(), digest_size=_DIGITS // 2).hexdigest()
    return f"{text.encode()[: most - _DIGITS - 1].decode(errors='ignore')}-{digest}"
