"""Ends the processes of a run (its workers, an engine's) when the run ends, however it ends.

A run that gets SIGTERM or SIGHUP exits, so that finalizers end its processes (``exit_when_told_to_end``). A run that is
killed, or out of memory, cannot do that: its processes watch their parent, and end when it is gone (``end_after``).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess
from typing import Any

RUN = "PCG_ENGINE_OF"  # variable of an engine's processes: the id of the process that started them


def exit_when_told_to_end() -> None:
    """From now on SIGTERM and SIGHUP raise SystemExit, so that finalizers run."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)


def _exit(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would interrupt the finalizers
    sys.exit(128 + number)


def end_with_the_parent() -> None:
    """In a process of an engine that a run has started: end at once when the parent has ended."""
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(RUN, str(os.getpid())) != str(os.getpid()):
        end_after(parent)


def end_after(parent: BaseProcess) -> None:
    """End this process at once when ``parent`` has ended, whatever it is doing then."""

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="pcg-ends-with-parent", daemon=True).start()
