"""Measures the seconds of each part of decoding."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

PARTS = ("prefill", "draft", "target", "rule", "other")


class Stalls:
    """Counts the seconds that this process spends on compiling and on recording graphs, which are not decoding."""

    def __init__(self) -> None:
        self.seconds, self.graphs = 0.0, 0
        self._since: list[float] = []  # compiling one graph may start another

    def begin(self, _: object = None) -> None:
        self._since.append(time.perf_counter())

    def end(self, _: object = None) -> None:
        took = time.perf_counter() - self._since.pop()
        if not self._since:
            self.seconds, self.graphs = self.seconds + took, self.graphs + 1


compiling = Stalls()


class _ThenOther:
    """A context that enters the part ``other`` on exit. It has no state, so one serves every ``with`` of a clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._clock.enter("other")


class Clock:
    """Measures the seconds of each part of decoding. Entering a part ends the one before; compiling is not counted.

    On a GPU the device's own time stamps are used, so that timing never makes the host wait until ``seconds`` is read.

    Attributes:
        passes: how often each part was entered; for ``draft`` and ``target`` these are the model's passes.
        cpu_seconds: as ``seconds``, by this thread's time on the processor: while other processes have its core, it
            stands still.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = time.perf_counter) -> None:
        """``now`` returns the host's seconds; on a GPU only ``elapsed`` uses it."""
        self._cuda, self._now = device.type == "cuda", now
        self._marks: list[tuple[str | None, torch.cuda.Event]] = []
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._part: str | None = None
        self._since, self._stalled, self._elapsed = 0.0, compiling.seconds, 0.0
        self._cpu: defaultdict[str, float] = defaultdict(float)
        self._cpu_since, self._compiled = 0.0, False
        self._then_other = _ThenOther(self)
        self.passes: Counter[str] = Counter()

    def enter(self, part: str, passes: int = 1) -> None:
        self._switch(part)
        self.passes[part] += passes

    def during(self, part: str, passes: int = 1) -> AbstractContextManager[None]:
        """A context whose body counts as ``part``; what follows it counts as ``other``."""
        self.enter(part, passes)
        return self._then_other

    def pause(self) -> None:
        """Stops the clock until the next ``enter``."""
        self._switch(None)

    def paused(self) -> AbstractContextManager[None]:
        """A context whose body is not counted; what follows it counts as ``other``."""
        self.pause()
        return self._then_other

    def _switch(self, part: str | None) -> None:
        now = self._now()
        if self._part is not None:
            stalled = compiling.seconds - self._stalled
            self._elapsed += now - self._since - stalled
            self._seconds[self._part] -= stalled
            self._compiled |= stalled > 0
        self._stalled = compiling.seconds
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
            self._part, self._since = part, now
            return
        cpu = time.thread_time()
        if self._part is not None:
            self._seconds[self._part] += now - self._since
            self._cpu[self._part] += cpu - self._cpu_since
        self._part, self._since, self._cpu_since = part, now, cpu

    def elapsed(self) -> float:
        """The host's seconds in all parts until now; a GPU's work is in them once the host has waited for it."""
        if self._part is None:
            return self._elapsed
        return self._elapsed + self._now() - self._since - (compiling.seconds - self._stalled)

    @property
    def cpu_seconds(self) -> dict[str, float] | None:
        """None where the thread did not do all of the work: on a GPU, with several threads, after compiling."""
        whole = not self._cuda and not self._compiled and torch.get_num_threads() == 1
        return {part: self._cpu[part] for part in PARTS} if whole else None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent in each of ``PARTS`` up to the last switch."""
        if self._cuda and self._marks:
            torch.cuda.synchronize()
            for (part, begin), (_, end) in zip(self._marks, self._marks[1:], strict=False):
                if part is not None:
                    self._seconds[part] += begin.elapsed_time(end) / 1000
            self._marks = self._marks[-1:]
        return {part: self._seconds[part] for part in PARTS}
