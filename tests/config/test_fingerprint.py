"""A run is of what lies at its paths, not only of their names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from pcg.config.fingerprint import fetch_described, fingerprints, inputs, of_utterances, state
from pcg.data.texts import Texts
from pcg.models import hub
from pcg.types import Audio, Utterance

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model(folder: Path, value: float, size: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({"weight": torch.full((size,), value)}, folder / "model.safetensors")
    return folder


def test_weights_that_change_under_their_name_are_others(tmp_path):
    run = {"target": {"path": str(model(tmp_path / "target", 1.0))}, "seed": 0}
    before = fingerprints(run)
    assert list(before) == ["target.path"]
    model(tmp_path / "target", 1.0)
    assert fingerprints(run) == before  # written again, the same
    model(tmp_path / "target", 2.0)
    assert fingerprints(run) != before


def test_texts_are_no_paths(tmp_path, monkeypatch):
    """An empty text is not the folder that one is in, and a long one no name of a file."""
    node = {"path": str(model(tmp_path / "target", 1.0)), "suffix": "", "text": "a word " * 100}
    monkeypatch.chdir(tmp_path)
    before = state(node)
    (tmp_path / "beside.txt").write_text("not read")
    assert state(node) == before
    model(tmp_path / "target", 2.0, 16)
    assert state(node) != before


def test_inputs_are_the_files_of_each_content_once(tmp_path, caplog):
    target, draft = model(tmp_path / "target", 1.0), model(tmp_path / "draft", 2.0)
    (target / "notes.md").write_text("no model reads this")
    run = {
        "target": {"path": str(target), "text": {"path": str(target)}},
        "draft": {"path": str(draft)},
        "codec": {"path": "bundled:codec"},
        "dataset": {"path": str(tmp_path)},
    }
    run["fingerprints"] = {**fingerprints(run), "dataset": "0123456789"}
    first, second, third = inputs(run)
    assert first.keys == ("target.path", "target.text.path")
    assert first.digest == run["fingerprints"]["target.path"]
    assert first.files == {"model.safetensors": target / "model.safetensors"}
    assert second.keys == ("draft.path",)
    assert (third.source, third.files, third.name) == ("bundled:codec", {}, f"checkpoint-{third.digest}")
    model(draft, 3.0)
    assert [one.keys[0] for one in inputs(run)] == ["target.path", "codec.path"]
    assert f"draft.path={draft} has changed since the run read it" in caplog.text


def test_one_number_of_a_large_file_is_seen_whatever_its_time(tmp_path):
    run = {"target": {"path": str(model(tmp_path / "target", 1.0, 30_000_000))}}  # 120 MB
    file = tmp_path / "target" / "model.safetensors"
    os.utime(file, (1e9, 1e9))
    before = fingerprints(run)
    with file.open("r+b") as content:
        content.seek(71_234_567)
        content.write(b"\0")
    os.utime(file, (1e9, 1e9))
    assert fingerprints(run) != before


def test_what_has_none(tmp_path):
    (tmp_path / "lines.txt").write_text("Say this.\n")
    (tmp_path / "recordings").mkdir()
    run = {
        "target": {"path": "owner/name"},
        "draft": None,
        "codec": {"path": str(tmp_path / "absent")},
        "dataset": {"path": str(tmp_path / "recordings")},
        "metrics": {"asr": {"recogniser": {"path": str(tmp_path / "lines.txt")}}},
    }
    assert list(fingerprints(run)) == ["metrics.asr.recogniser.path"]


def test_of_a_hub_model_it_is_the_commit_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run = {"target": {"path": "owner/name"}, "dataset": {"path": "owner/set"}}
    asked = []

    def about(hub_id):
        asked.append(hub_id)
        repository = tmp_path / "models--owner--name"
        (repository / "snapshots" / COMMIT).mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)

    monkeypatch.setattr(hub, "about", about)
    assert fingerprints(run) == {}
    for _ in range(2):
        fetch_described(run)
        assert fingerprints(run) == {"target.path": COMMIT[:10]}
    assert asked == ["owner/name"]  # once, and of models only


def test_the_bundled_models_have_one():
    run = {part: {"path": f"bundled:{part}"} for part in ("target", "draft", "codec")}
    assert len(set(fingerprints(run).values())) == 3


@pytest.mark.parametrize("name", ["config.json", "tokens.json", "tokenizer.model", "vocab.txt"])
def test_what_a_model_is_read_with_is_part_of_it(tmp_path, name):
    run = {"codec": {"path": str(model(tmp_path / "codec", 1.0))}}
    found = {fingerprints(run)["codec.path"]}
    for content in ("{}", "[]"):
        (tmp_path / "codec" / name).write_text(content)
        found.add(fingerprints(run)["codec.path"])
    assert len(found) == 3
    (tmp_path / "codec" / "README.md").write_text("Read by people.")
    assert fingerprints(run)["codec.path"] in found


def test_texts_ids_and_voices_are_part_of_a_dataset(tmp_path):
    lines, voice = tmp_path / "lines.txt", tmp_path / "voice.wav"
    found = []
    for text, loudness, says in (("One.", 0.1, "Hi."), ("One.\nTwo.", 0.1, "Hi."), ("One.\n\nTwo.", 0.1, "Hi."),
                                 ("One.\nTwo!", 0.1, "Hi."), ("One.", 0.2, "Hi."), ("One.", 0.1, "Ho.")):  # fmt: skip
        lines.write_text(text)
        soundfile.write(voice, np.full(800, loudness), 16_000)
        found.append(of_utterances(Texts(str(lines), str(voice), says)))
    assert len(set(found)) == len(found)
    lines.write_text("One.\nTwo.")
    assert of_utterances(Texts(str(lines), str(voice), "Ho.", limit=1)) == found[-1]  # what is not read does not count


class Voice:
    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)

    def read(self) -> bytes:
        return self.contents.pop()

    def __call__(self) -> Audio:
        raise AssertionError("decoded")


def test_recordings_are_read_once_and_not_decoded():
    assert of_utterances([Utterance(id, "x", load_prompt=voice) for voice in [Voice(b"a")] for id in "ab"])
    heard = [of_utterances([Utterance("a", "x", load_reference=Voice(content))]) for content in (b"a", b"b")]
    assert heard[0] != heard[1]


def test_a_recording_without_bytes_counts_by_its_samples():
    def at(level: float) -> str:
        return of_utterances([Utterance("a", "x", load_prompt=lambda: Audio(np.full(8, level), 16_000))])

    assert at(0.1) == at(0.1) != at(0.2)


def test_ids_are_unique():
    with pytest.raises(ValueError, match="two utterances are called 'a'"):
        of_utterances([Utterance("a", "One."), Utterance("b", "Two."), Utterance("a", "Three.")])
