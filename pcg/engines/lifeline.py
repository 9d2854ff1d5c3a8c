"""No process that a run began outlives it, an engine's or a device's, however that run ends.

The run's own end is an exit, after which finalizers end the engine (``exit_when_told_to_end``). Where a run has no time
for that, killed or out of memory, its processes see that their parent is gone (``end_after``).
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

    threading.Thread(target=wait, name="pcg-lifeline", daemon=True).start()
