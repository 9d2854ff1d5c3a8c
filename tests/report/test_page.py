from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile

from pcg.report import page
from pcg.results.store import read_study, read_utterances
from pcg.runner.run import run_once

_VOID = {"meta", "link", "input", "br"}
_LABELS = ["run a", "run b </script> & co"]


class Parsed(HTMLParser):
    """Open tags, the data, and every address of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.data = ""
        self._in_data = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        self._in_data = ("id", "data") in attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._in_data = False

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data


@pytest.fixture
def written(config, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    run_once(config(**{"dataset.poison": [1]}))
    run_once(config(**{"dataset.poison": [1], "decoding.gamma": 2}))
    study = tmp_path / "outputs" / "tiny"
    (study / "report").mkdir()
    path = page.write(read_study(study), _LABELS, study / "report")
    parsed = Parsed(path.read_text(encoding="utf-8"))
    assert parsed.open == []
    assert parsed.addresses == ["data:,"]  # nothing from elsewhere
    return path, json.loads(parsed.data)


def test_the_page_holds_every_clip(written) -> None:
    path, data = written
    assert [method["name"] for method in data["methods"]] == ["target alone", *_LABELS]
    assert [said["id"] for said in data["utterances"]] == [f"u/{index}" for index in range(6)]
    for method, result in enumerate(read_study(path.parent.parent)):
        for said, row in zip(data["utterances"], read_utterances(Path(result.folder)), strict=True):
            clip = said["clips"][method + 1]
            assert clip["method"] == method + 1
            if row["error"]:
                assert clip["error"] == row["error"]
                continue
            assert not clip["src"].startswith("/")
            assert soundfile.info(path.parent / clip["src"]).frames == 8 * len(clip["tokens"])
            assert clip["tokens"] == row["tokens"]
            assert len(clip["kinds"]) == len(clip["target"]) == len(clip["draft"]) == len(clip["tokens"])
            assert set(clip["kinds"]) <= set("egrb")
            assert len(clip["peaks"]) <= 300
            assert all(0 <= peak <= 99 for peak in clip["peaks"])


def test_the_target_alone_is_heard_though_no_run_is_of_it(written) -> None:
    path, data = written
    result = read_study(path.parent.parent)[0]
    wer = result.values["quality"]["baseline_wer"]
    assert data["methods"][0]["facts"][1] == f"WER {100 * wer:.1f} %"
    assert data["methods"][0]["facts"][-1] == "beside run a"
    clip = data["utterances"][0]["clips"][0]
    assert (clip["tokens"], clip["kinds"]) == ([], "")
    [alone] = Path(result.folder).glob("baseline_audio/u_0-*.wav")
    assert (path.parent / clip["src"]).samefile(alone)
    assert "cannot say poison" in data["utterances"][1]["clips"][0]["error"]


def test_a_study_with_a_run_of_the_target_alone_has_no_other(config, tmp_path: Path) -> None:
    run_once(config())
    run_once(config(draft={}))
    study = tmp_path / "outputs" / "tiny"
    assert len(page.content(read_study(study), _LABELS, study / "report")["methods"]) == 2


def test_a_long_study_is_cut_and_says_so(written, monkeypatch) -> None:
    path, _ = written
    monkeypatch.setattr(page, "SHOWN", 2)
    data = page.content(read_study(path.parent.parent), _LABELS, path.parent)
    assert (len(data["utterances"]), data["total"]) == (2, 6)


def test_errors_are_marked_word_by_word() -> None:
    pytest.importorskip("jiwer")
    assert page.aligned("Let the cat in, please.", "let a cat in the please") == [
        ["equal", "let", "let"], ["substitute", "the", "a"], ["equal", "cat in", "cat in"],
        ["insert", "", "the"], ["equal", "please", "please"],
    ]  # fmt: skip
    assert page.aligned("Gone.", "") == [["delete", "gone", ""]]
