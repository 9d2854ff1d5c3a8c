"""The processes that a run starts, of its devices and of an engine, end with it, however it ends.

A run that is told to end exits, so that finalizers end its processes (``exit_when_told_to_end``). A run that is killed
or out of memory cannot do that: its processes watch their parent, and end when it is gone (``end_after``).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess
from typing import Any

RUN = "PCG_ENGINE_OF"  # in the environment of an engine's processes: the one that began them


def exit_when_told_to_end() -> None:
    """SIGTERM and SIGHUP raise SystemExit from now on, where they would end this process without a finalizer."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _exit)


def _exit(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would come between an engine and its end
    sys.exit(128 + number)


def end_with_the_parent() -> None:
    """A process of an engine that a run has begun ends at once when its parent has, and its children after it."""
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(RUN, str(os.getpid())) != str(os.getpid()):
        end_after(parent)


def end_after(parent: BaseProcess) -> None:
    """This process ends at once when ``parent`` has, whatever it is doing then."""

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="pcg-ends-with-parent", daemon=True).start()
