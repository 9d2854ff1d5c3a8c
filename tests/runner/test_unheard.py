"""Runs without a codec: what needs no audio is measured as with one, the tokens are written, and why there is no
quality is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcg.config.validate import ConfigError
from pcg.report import report
from pcg.results.store import read_utterances
from pcg.runner import rescore
from pcg.runner.run import run_once
from pcg.types import Result
from tests.tiny.parts import calls

CODED = {"_target_": "pcg.tiny.Coded"}
REASON = "there is no audio without a codec (codec=none)"


@pytest.fixture
def unheard(config) -> Callable[..., dict[str, Any]]:
    return lambda **changes: config(**{"codec": {}, "dataset": CODED, **changes})


def records(result: Result) -> list[dict[str, Any]]:
    lines = (Path(result.folder) / "batches.jsonl").read_text().splitlines()
    return [row for line in lines for row in json.loads(line)["rows"]]


@pytest.mark.parametrize("when", ["inline", "after"])
def test_a_run_measures_what_needs_no_audio(config, unheard, when: str, caplog) -> None:
    heard = run_once(config(dataset=CODED))
    calls.clear()
    with caplog.at_level(logging.WARNING, "pcg"):
        result = run_once(unheard(**{"metrics.when": when}))
    values = result.values
    for part in ("counts", "acceptance", "distortion"):
        assert values[part] == heard.values[part]
    assert values["speed"]["speedup"] > 0
    assert values["speed"]["rtf"] is None
    assert set(values["quality"].values()) == {None}
    assert values["quality"].keys() == heard.values["quality"].keys()
    assert values["left_out"] == [{"figure": name, "utterances": 4, "reason": REASON} for name in ("wer", "mos")]
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"wer, mos: without 4 of 4 utterances, since {REASON}"]
    assert "codecs" not in calls
    assert "scored" not in calls


def test_tokens_are_written_for_a_vocoder(unheard) -> None:
    result = run_once(unheard())
    folder = Path(result.folder)
    rows = read_utterances(folder)
    for row in rows:
        tokens = np.load(folder / row["tokens_file"], allow_pickle=False)
        assert tokens.dtype == np.int64
        assert tokens.tolist() == row["tokens"]
        assert (row["audio"], row["audio_seconds"]) == (None, None)
    assert len({row["tokens_file"] for row in rows}) == 4
    alone = run_once(unheard(draft={}))
    for row in records(alone):
        assert np.load(folder / f"baseline_{row['tokens_file']}").tolist() == row["tokens"]
    assert not list(folder.glob("*audio"))


def test_the_report_has_no_page_and_says_why(config, unheard, capsys) -> None:
    study = Path(run_once(unheard()).folder).parent
    folder = report.show(study)
    shown = capsys.readouterr().out
    assert "no audio without a codec" in shown
    assert "tokens/*.npy" in shown
    assert not (folder / "index.html").exists()
    assert "no quality and no RTF: every run." in (folder / "table.md").read_text()
    run_once(config(dataset=CODED, **{"decoding.gamma": 2}))
    report.show(study)
    assert "gamma=2" in (folder / "index.html").read_text()
    assert "gamma=3" not in (folder / "index.html").read_text()
    assert "no quality and no RTF: exact" in (folder / "table.md").read_text()


def test_there_is_nothing_to_score(unheard) -> None:
    folder = run_once(unheard()).folder
    asked = {"run": folder, "metrics": {"loudness": {"_target_": "pcg.tiny.Loudness"}}, "device": "cpu", "threads": 1}
    with pytest.raises(ConfigError, match=r"decoded without a codec \(codec=none\), so there is no audio to score"):
        rescore.check(asked)


def test_voices_that_are_audio_are_refused_before_anything_is_decoded(config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"voice prompts of 6 of 6 utterances are audio, the first that of 'u/0'"):
        run_once(config(codec={}))
    assert not (tmp_path / "outputs").exists()
    assert "models" not in calls
