"""Seconds of a part by the wall and by the processor."""

from __future__ import annotations

import time

import pytest
import torch

from pcg.decoding import clock as clocks
from pcg.decoding.clock import PARTS, Clock


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    clock = Clock(torch.device("cpu"))
    clock.enter("target")
    time.sleep(0.1)  # as when another process has the core
    clock.enter("rule")
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    clock.pause()
    return clock


def test_the_processors_seconds_have_no_waiting_in_them(timed: Clock) -> None:
    assert timed.seconds["target"] >= 0.1
    assert timed.cpu_seconds is not None
    assert timed.cpu_seconds["target"] < 0.05
    assert timed.cpu_seconds["rule"] == pytest.approx(0.05, abs=0.02)
    assert tuple(timed.cpu_seconds) == PARTS


def test_there_are_none_where_other_threads_or_a_compiler_had_a_share(timed: Clock, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert timed.cpu_seconds is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert timed.cpu_seconds is not None
    timed.enter("draft")
    monkeypatch.setattr(clocks.compiling, "seconds", clocks.compiling.seconds + 1)
    timed.pause()
    assert timed.cpu_seconds is None
