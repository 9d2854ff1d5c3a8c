"""Texts without a voice: everything is measured but the similarity to it."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pcg.report import report
from pcg.results.store import read_utterances
from pcg.runner.run import run_once

SPEAKER = {"_target_": "pcg.metrics.speaker.SpeakerSimilarity"}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.txt").write_text(f"The {name} fell down.")
    return folder


@pytest.fixture
def run(config, texts: Path) -> Any:
    def make(**changes: Any) -> Any:
        made = config(**changes)
        made["dataset"] = {"_target_": "pcg.data.text_folder.TextFolder", "path": str(texts)}
        made["metrics"]["speaker"] = SPEAKER
        return run_once(made)

    return make


@pytest.mark.parametrize("when", ["inline", "after"])
def test_similarity_is_left_out_and_told_once(run, when: str, caplog) -> None:
    with caplog.at_level(logging.WARNING, "pcg"):
        result = run(**{"metrics.when": when})
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    reason = "there is neither a voice nor a recording to compare with"
    assert told == [f"speaker_similarity: without 3 of 3 utterances, since {reason}"]
    quality = result.values["quality"]
    assert (quality["speaker_similarity"], quality["baseline_speaker_similarity"]) == (None, None)
    assert quality["mos"] is not None
    assert result.values["left_out"] == [{"figure": "speaker_similarity", "utterances": 3, "reason": reason}]
    assert result.values["failures"] == []
    folder = report.show(Path(result.folder).parent)
    assert "similarity" not in (folder / "table.md").read_text()
    with (folder / "table.csv").open() as file:
        assert next(csv.DictReader(file))["quality.speaker_similarity"] == ""


def test_a_mix_keeps_those_with_a_voice(run, texts: Path, caplog) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000)
    soundfile.write(texts / "b.wav", noise, 16_000)
    (texts / "b.prompt").write_text("Hush.")
    result = run()
    rows = {row["utterance"]: row["speaker_similarity"] for row in read_utterances(Path(result.folder))}
    assert (rows["a"], rows["c"]) == (None, None)
    assert result.values["quality"]["speaker_similarity"] == rows["b"]
    assert "speaker_similarity: without 2 of 3 utterances" in caplog.text
    json.dumps(result.values, allow_nan=False)
