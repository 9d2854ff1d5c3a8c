"""A run is of what it reads: texts, voices and models that change make another run, and never a mixture."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pcg.results.records import Records
from pcg.results.store import read_utterances
from pcg.runner import loading
from pcg.runner import run as run_module
from pcg.runner.batch import wav_name
from pcg.runner.run import RunFailed, run_once
from pcg.types import Utterance
from tests.tiny.parts import Sentences, calls

Config = Callable[..., dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    for name, text in (("b", "Snow fell."), ("c", "Birds sang."), ("d", "This is poison.")):
        (place / f"{name}.txt").write_text(text)
    return place


@pytest.fixture
def on_folder(config: Config, folder: Path) -> Callable[..., dict[str, Any]]:
    def make(**changes: Any) -> dict[str, Any]:
        made = config(**{"decoding.batch_size": 1, **changes})
        return {**made, "dataset": {"_target_": "pcg.data.text_folder.TextFolder", "path": str(folder)}}

    return make


def texts_of(config: dict[str, Any]) -> list[str]:
    return [row["text"] for row in read_utterances(Path(run_once(config).folder))]


def test_a_run_given_up_and_begun_again_over_other_texts_does_not_mix(on_folder, folder):
    with pytest.raises(RunFailed, match="cannot say poison"):
        run_once(on_folder(max_failures=0))
    (folder / "a.txt").write_text("My aunt drinks tea.")
    (folder / "d.txt").write_text("No colon here.")
    assert texts_of(on_folder(max_failures=0)) == ["My aunt drinks tea.", "Snow fell.", "Birds sang.", "No colon here."]


def test_what_changes_after_the_end_is_another_run(on_folder, folder):
    found = [run_once(on_folder()).folder]
    (folder / "d.txt").write_text("No colon here.")
    found.append(run_once(on_folder()).folder)
    for loudness in (0.1, 0.2):
        (folder / "b.prompt").write_text("Hello there.")
        soundfile.write(folder / "b.wav", np.full(80, loudness), 16_000)
        found.append(run_once(on_folder()).folder)
    (folder / "d.txt").rename(folder / "e.txt")
    found.append(run_once(on_folder()).folder)
    assert len(set(found)) == len(found)
    assert run_once(on_folder()).folder == found[-1]


def test_records_of_other_texts_are_not_gone_on_with(config, monkeypatch):
    """As of a dataset that changes without its fingerprint: each record must be of its batch's own utterances."""
    monkeypatch.setattr(loading.fingerprint, "of_utterances", lambda utterances: "same")
    folder = Path(run_once(config(**{"dataset.limit": 7})).folder)
    (folder / "result.json").unlink()
    own = Sentences.__iter__
    monkeypatch.setattr(Sentences, "__iter__", lambda self: (u for u in own(self) if u.id != "u/2"))
    result = run_once(config(**{"dataset.limit": 7}))
    assert Path(result.folder) == folder
    said = [row["utterance"] for row in read_utterances(folder)]
    assert said == ["u/0", "u/1", "u/3", "u/4", "u/5", "u/6"]
    assert [line["batch"] for line in Records(folder / "batches.jsonl").lines] == [0, 1, 2, 3, 1, 2]


def test_two_utterances_of_one_id_are_refused(config, monkeypatch, tmp_path):
    own = Sentences.__iter__
    monkeypatch.setattr(Sentences, "__iter__", lambda self: (u for _ in range(2) for u in own(self)))
    with pytest.raises(ValueError, match="two utterances are called 'u/0'"):
        run_once(config())
    assert not (tmp_path / "outputs").exists()


def test_failed_utterances_of_a_finished_run_are_told_of_and_tried_again(config, caplog, monkeypatch):
    caplog.set_level("INFO")
    changes = {"dataset.poison": [1, 4], "decoding.batch_size": 1}
    assert len(run_once(config(**changes)).values["failures"]) == 2
    run_module._done_here.clear()
    decoded = calls["models"]
    run_once(config(**changes))
    assert "already done, 2 failed; max_failures=0 tries them again" in caplog.text
    assert calls["models"] == decoded
    with pytest.raises(RunFailed, match="cannot say poison"):
        run_once(config(**changes, max_failures=0))
    monkeypatch.setattr("tests.tiny.parts.Bigram.prompt", lambda self, said, voice: voice)
    result = run_once(config(**changes, max_failures=0))
    assert (result.values["counts"]["utterances"], result.values["failures"]) == (6, [])
    lines = (Path(result.folder) / "batches.jsonl").read_text().splitlines()
    assert [json.loads(line)["batch"] for line in lines] == [0, 1, 2, 3, 4, 5, 1, 1, 4]


def test_no_two_ids_share_a_file():
    ids = ["take 1", "take_1", "take/1", "Take_1", "TAKE_1", "../x", "..", ".", "", "é", "e\u0301", "x" * 300,
           "x" * 300 + "y", "\n", "\0", "-rf", "日本", "a.wav", "a"]  # fmt: skip
    names = [wav_name(Utterance(id, "x")) for id in ids]
    assert len({name.casefold() for name in names}) == len(ids)
    assert all(len(name.encode()) < 255 and "/" not in name.removeprefix("audio/") for name in names)
    assert wav_name(Utterance("1089_134686_000002_000000", "x")) == "audio/1089_134686_000002_000000.wav"


def test_utterances_whose_ids_differ_in_signs_are_heard_apart(config, monkeypatch):
    own = Sentences.__iter__
    names = dict(zip([f"u/{index}" for index in range(6)], ["t 1", "t_1", "t/1", "T_1", "t-1", "t.1"], strict=True))
    monkeypatch.setattr(
        Sentences, "__iter__",
        lambda self: (Utterance(names[u.id], u.text, u.speaker, u.prompt_text, u.load_prompt) for u in own(self)),
    )  # fmt: skip
    inline = run_once(config())
    after = run_once(config(**{"metrics.when": "after"}))
    assert len(list((Path(after.folder) / "audio").iterdir())) == 6
    assert after.values["quality"] == inline.values["quality"]
