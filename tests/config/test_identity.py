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
