"""Locks that let one process at a time work on a run's folder: of a launcher, of two terminals, of two machines."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
log = logging.getLogger("pcg")


@contextmanager
def held(folder: Path, name: str) -> Iterator[None]:
    """Hold the run's lock; while another process holds it, wait and log which.

    The kernel releases the lock when its process ends in any way. The file stays, because removing it would let a third
    process in. On a shared file system with ``flock`` (NFS, Lustre if mounted with it) it works between machines.

    Args:
        name: of the run, for the message.
    """
    with (folder / NAME).open("a+") as file:
        try:
            if not _taken(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB):
                log.info("%s: waiting for %s, which is doing the same run", name, _holder(folder))
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            log.warning("%s: this file system has no locks; do not start the same run twice at once", folder)
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def turn(path: Path | None) -> Iterator[None]:
    """Wait until no other process holds this file, then hold it; None: do not wait.

    On a file system without locks nobody waits, and timings are less exact.
    """
    if path is None:
        yield
        return
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def holder(folder: Path) -> str | None:
    """The process that works on this run, on any machine; None if there is none, or the file system has no locks."""
    try:
        with (folder / NAME).open() as file:
            return None if _taken(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB) else _holder(folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None


def _taken(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    return True


def _holder(folder: Path) -> str:
    return (folder / NAME).read_text() or "another process"
