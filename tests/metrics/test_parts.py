from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from pcg.metrics.asr import WordErrors
from pcg.metrics.moonshine import Moonshine
from pcg.metrics.mos import Mos
from pcg.metrics.parts import MissingPart, one_torch_thread, samples_of
from pcg.metrics.pocketsphinx import PocketSphinx
from pcg.metrics.speaker import SpeakerSimilarity
from pcg.types import Audio


@pytest.mark.parametrize("part", [Moonshine, PocketSphinx, SpeakerSimilarity, Mos, lambda: WordErrors(str)])
def test_what_is_not_installed_is_named_with_the_command(part, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"not installed: run `make install`, or `pip install pcg\[bundled\]`"):
        part()


def test_later_moonshine_wheels_without_weights_are_told_apart(monkeypatch, tmp_path):
    monkeypatch.setattr("pcg.metrics.moonshine.require", lambda package, metric: tmp_path)
    with pytest.raises(MissingPart, match=r"moonshine-voice==0\.0\.73"):
        Moonshine()


def test_samples_are_16_khz_float32():
    assert len(samples_of(Audio(np.zeros(24_000), 24_000))) == 16_000
    assert samples_of(Audio(np.zeros(24_000), 24_000)).dtype == np.float32
    assert len(samples_of(Audio(np.zeros(0), 24_000))) == 0


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
