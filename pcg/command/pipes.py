"""``pcg ... | head``: who reads what is printed may stop early, which is no error of the command's."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def may_be_closed() -> Iterator[None]:
    """Ends the program with status 1 and no traceback where standard output has no reader any more."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the end
        sys.exit(1)
