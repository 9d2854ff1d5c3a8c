"""A run that asks how far it strays has what is heard of the codec's tokens, once, and says why where it has not."""

from __future__ import annotations

import pytest
import torch

from pcg.config.identity import canonical, run_id
from pcg.config.validate import ConfigError
from pcg.groups import token_sounds
from pcg.runner import movers
from pcg.runner.run import run_once

SSD = {"_target_": "pcg.acceptance.ssd.SSD", "beta": 0.4}
PLACES = (torch.arange(2 * (2 * token_sounds.SIDE + 1)) % 5).view(2, -1)


@pytest.fixture
def listened(monkeypatch, tmp_path) -> list[int]:
    """One item each time that a codec is listened to."""
    times: list[int] = []
    listen = token_sounds.sounds_of

    def counted(codec, places):
        times.append(len(places))
        return listen(codec, places)

    monkeypatch.setenv("PCG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(movers, "contexts_of", lambda *_: PLACES)
    monkeypatch.setattr(token_sounds, "sounds_of", counted)
    return times


def test_a_run_that_asks(config, listened) -> None:
    values = run_once(config(grouping=SSD, **{"decoding.sound_every": 1})).values
    found = values["distortion"]
    assert found["moved_positions"] == values["counts"]["tested"]
    assert found["sound"] > 0
    assert 0 < found["embedding"] <= 2 * found["tv"] + 1e-6
    assert found["sound_ci95"][0] < found["sound"] < found["sound_ci95"][1]
    assert values["left_out"] == []
    some = run_once(config(grouping=SSD, **{"decoding.sound_every": 3})).values["distortion"]
    assert 0 < some["moved_positions"] < found["moved_positions"]
    assert some["tv"] == found["tv"]
    assert listened == [2]  # kept for the second run


def test_a_run_that_does_not_ask_listens_to_nothing_and_is_the_run_that_it_was(config, listened) -> None:
    plain = config(grouping=SSD)
    assert run_id(canonical({**plain, "decoding": {**plain["decoding"], "sound_every": None}})) == run_id(
        canonical(plain)
    )
    assert run_once(plain).values["distortion"]["sound"] is None
    assert not listened
    alone = config(draft=None, **{"decoding.sound_every": 1})
    assert "sound_every" not in canonical(alone)["decoding"]  # nothing is tested


def test_without_a_codec_the_embeddings_are_left(config, listened) -> None:
    coded = {"codec": {}, "dataset": {"_target_": "pcg.tiny.Coded"}}
    values = run_once(config(grouping=SSD, **coded, **{"decoding.sound_every": 1})).values
    assert values["distortion"]["sound"] is None
    assert values["distortion"]["embedding"] > 0
    assert values["left_out"][-1]["figure"] == "distortion.sound"
    assert not listened


def test_what_is_missing_is_named(config, monkeypatch) -> None:
    monkeypatch.setattr(movers, "installed", lambda: False)
    with pytest.raises(
        ConfigError, match=r"decoding\.sound_every=8: needs the package POT: pip install 'pcg\[sound\]'"
    ):
        run_once(config(grouping=SSD, **{"decoding.sound_every": 8}))
