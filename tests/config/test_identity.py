"""Which runs are one: ``decoding.compile`` by what it comes to on the run's device."""

from __future__ import annotations

import pytest
import torch

from pcg.config import identity


@pytest.mark.parametrize(("device", "same"), [("cpu", (False, "auto")), ("cuda", (True, "auto"))])
def test_auto_is_the_run_that_it_comes_to(device: str, same: tuple, config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain and compiled runs are two, as their seconds differ; what compiles is still told that auto forgives."""
    monkeypatch.setattr(identity, "pick_device", torch.device)
    runs = {asked: identity.canonical(config(device=device, **{"decoding.compile": asked})) for asked in same}
    other = identity.canonical(config(device=device, **{"decoding.compile": not same[0]}))
    names = {identity.run_id(run) for run in runs.values()}
    assert len(names) == 1
    assert identity.run_id(other) not in names
    assert runs["auto"]["decoding"].get("compile", False) == ("auto" if device == "cuda" else False)


def test_a_number_is_one_however_it_is_typed(config) -> None:
    def named(**changes: object) -> str:
        run = identity.canonical(config(**changes))
        return f"{identity.run_id(run)} {identity.label(run)}"

    assert named(**{"decoding.temperature": 1}) == named(**{"decoding.temperature": 1.0})
    assert named(**{"decoding.temperature": 1}) != named(**{"decoding.temperature": 1.5})
    assert identity.run_id({"decoding": {"x": [1e3, {"y": -0.0}]}}) == identity.run_id(
        {"decoding": {"x": [1000, {"y": 0}]}}
    )
    assert identity.run_id({"decoding": {"x": True}}) != identity.run_id({"decoding": {"x": 1}})
