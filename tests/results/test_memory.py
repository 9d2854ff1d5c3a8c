"""A full device names the settings that help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pcg.results.environment import memory_advice
from pcg.runner.run import RunFailed, run_once
from tests.tiny import parts as parts_for_tests

Config = Callable[..., dict[str, Any]]


def full(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def test_a_full_device_names_the_settings_that_help(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_for_tests.Bigram, "prefill", full)
    with pytest.raises(RunFailed, match=r"out of memory\.; the device is full: lower decoding\.batch_size"):
        run_once(config())


def test_one_row_at_a_time_is_tried_before_a_batch_is_given_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    prefill = parts_for_tests.Bigram.prefill

    def small(self: Any, prompts: Any, *more: Any, **named: Any) -> Any:
        return prefill(self, prompts, *more, **named) if len(prompts) == 1 else full()

    monkeypatch.setattr(parts_for_tests.Bigram, "prefill", small)
    assert run_once(config(**{"decoding.batch_size": 3})).values["counts"]["utterances"] == 6


def test_other_errors_get_no_such_advice() -> None:
    assert memory_advice(ValueError("no")) == ""
