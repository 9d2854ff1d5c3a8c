"""The process during a run: where it logs to, and what Ctrl-C does."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger("pcg")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Write every log record of pcg, and warnings of other packages, to the run's log with their times."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: record.name.startswith("pcg") or record.levelno >= logging.WARNING)
    root, before = logging.getLogger(), log.level
    root.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(before)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def finish_batch_on_ctrl_c() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the current batch is finished; the second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def on_interrupt(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        log.warning("finishing the current utterances; Ctrl-C again stops at once")
        asked.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
