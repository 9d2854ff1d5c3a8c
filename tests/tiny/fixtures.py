"""A config of tiny parts, reachable as ``pcg.tiny.*`` because a config may only name what lies inside ``pcg.``."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcg.runner import loading, run
from pcg.runner.scores import ScoreMemo
from tests.tiny import parts as parts_for_tests

Config = dict[str, Any]


@pytest.fixture(autouse=True)
def _tiny_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, part in inspect.getmembers(parts_for_tests, inspect.isclass):
        if part.__module__ == parts_for_tests.__name__:
            monkeypatch.setattr(part, "__module__", "pcg.tiny")
    monkeypatch.setitem(sys.modules, "pcg.tiny", parts_for_tests)
    loading.kept.clear()
    monkeypatch.setattr(run, "_memo", ScoreMemo())
    monkeypatch.setattr(run, "_done_here", set())
    parts_for_tests.calls.clear()
    parts_for_tests.Recorder.told.clear()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """``config(**{"decoding.gamma": 2})`` is the tiny run with changes, by dotted key."""

    def make(**changes: Any) -> Config:
        made = copy.deepcopy(_BASE)
        made["paths"] = {"outputs": str(tmp_path / "outputs")}
        for key, value in changes.items():
            *groups, leaf = key.split(".")
            node = made
            for group in groups:
                node = node[group]
            node[leaf] = value
        return made

    return make


_BASE: Config = {
    "study": "tiny",
    "seed": 0,
    "device": "cpu",
    "threads": 1,
    "max_failures": 3,
    "target": {"_target_": "pcg.tiny.Bigram"},
    "draft": {"_target_": "pcg.tiny.Bigram", "noise": 0.7},
    "codec": {"_target_": "pcg.tiny.Tones"},
    "dataset": {"_target_": "pcg.tiny.Sentences", "limit": 6},
    "grouping": {"_target_": "pcg.acceptance.exact.Exact", "theta": 0.4},
    "decoding": {
        "gamma": 3, "batch_size": 2, "max_tokens": 40, "temperature": 1.0, "top_k": None, "top_p": 1.0,
        "repetition_penalty": 1.0, "baseline": True,
    },
    "metrics": {"loudness": {"_target_": "pcg.tiny.Loudness"}},
    "logger": {"_target_": None},
}  # fmt: skip
