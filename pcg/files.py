"""Files: the cache folder, what is wrong with a path that a user gave, names that are too long, whole files or none."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIGITS = 8  # of the digest in a shortened name
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EDQUOT)


def cache_folder() -> Path:
    """The folder of what is kept between runs: ``$PCG_CACHE``, else ``~/.cache/pcg``."""
    return Path(os.environ.get("PCG_CACHE") or "~/.cache/pcg").expanduser()


def absent(path: Path) -> str | None:
    """Why nothing is at a path, for an error message; None where something is."""
    return None if path.exists() else dead_link(path) or f"{path}: no such file or folder"


def dead_link(path: Path) -> str | None:
    """The dead link among a path and its parents, for an error message; None without one."""
    link = next((above for above in (path, *path.parents) if above.is_symlink() and not above.exists()), None)
    return None if link is None else f"{link} is a link to {link.readlink()}, which is not there"


def no_file(path: Path) -> str | None:
    """Why a path is no file that can be read; None where it is one."""
    return None if path.is_file() else absent(path) or f"{path} is a folder, expected a file"


def no_folder(path: Path) -> str | None:
    """Why a path is no folder; None where it is one."""
    return None if path.is_dir() else absent(path) or f"{path} is a file, expected a folder"


def unwritable(error: BaseException) -> bool:
    """Whether an error says that a file cannot be written: no permission, no space, a file in place of a folder."""
    return getattr(error, "errno", None) in _UNWRITABLE


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A context with the path of a file to write, which replaces ``path`` at its end: others find no half of a file.

    Where the body raises, ``path`` stays as it was. Several processes may do this at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def within(text: str, most: int) -> str:
    """The text if it has at most ``most`` bytes of UTF-8; else its beginning and a digest of the whole."""
    return text if len(text.encode()) <= most else marked(text, most, text)


def marked(text: str, most: int, meant: str) -> str:
    """As much of ``text`` as fits into ``most`` bytes of UTF-8 beside a digest of ``meant``, the name it stands for."""
    digest = hashlib.blake2b(meant.encode(), digest_size=_DIGITS // 2).hexdigest()
    return f"{text.encode()[: most - _DIGITS - 1].decode(errors='ignore')}-{digest}"
