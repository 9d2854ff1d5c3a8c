"""The listening page in a real browser, from a file:// path. What it holds is tested in ``test_page.py``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcg.report import page
from pcg.report.names import in_order, labels
from pcg.results import store
from pcg.runner.run import run_once
from tests.report.browser import PROGRAM, Browser

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="no Chromium on this machine: the page is not tried in a browser"
)
HOP = 1600  # a tenth of a second a token, so that there is something to hear
ROWS = "[...document.querySelectorAll('main section')].filter(s => !s.hidden).map(s => s.dataset.utterance)"


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")
    groups = {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.5, "source": "target_input"}
    for changes in ({}, {"grouping": {"_target_": "pcg.acceptance.pcg.PCG", "groups": groups}}, {"draft": {}}):
        made = config(**{"dataset.speakers": ["anna", "ben"], "dataset.poison": [5], "codec.hop": HOP, **changes})
        made["metrics"] = {"asr": {"_target_": "pcg.tiny.Dictation", "hop": HOP}}
        run_once(made)
    return tmp_path / "outputs" / "tiny"


def written(study: Path) -> tuple[Path, dict[str, Any]]:
    results = in_order(store.read_study(study))
    (study / "report").mkdir()
    called = labels(results)
    return page.write(results, called, study / "report"), page.content(results, called, study / "report")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as opened:
        yield opened
        assert opened.errors == []
        assert all(url.startswith(("file://", "data:")) for url in opened.requests)


def clip_of(data: dict[str, Any], utterance: int, method: int) -> dict[str, Any]:
    return next(clip for clip in data["utterances"][utterance]["clips"] if clip["method"] == method)


def test_audio_plays_by_click_and_by_key(study: Path, browser: Browser) -> None:
    path, data = written(study)
    browser.open(path)
    browser.click("section:nth-of-type(1) .clip:nth-of-type(2) .play")
    browser.until("playing && playing.audio.currentTime > 0.05")
    assert browser.value("playing.method") == 1
    assert browser.value("playing.audio.duration") == pytest.approx(clip_of(data, 0, 1)["seconds"], abs=0.01)
    assert browser.value("document.querySelectorAll('.play[aria-pressed=true]').length") == 1

    browser.key("3")  # goes on in the third method, at the same place, and the second stops
    browser.until("playing && playing.method === 2 && playing.audio.currentTime > 0.05")
    assert browser.value("data.utterances[0].clips[1].audio.paused")
    browser.key(" ")
    browser.until("playing === null")

    browser.key("j")
    browser.key("1")
    assert browser.value("document.activeElement.dataset.utterance") == "u/1"
    browser.key(" ")
    browser.until("playing && playing.said.id === 'u/1' && playing.method === 0 && playing.audio.currentTime > 0.05")
    browser.key("k")
    assert browser.value("current.id") == "u/0"


def test_every_clip_can_be_played(study: Path, browser: Browser) -> None:
    path, _ = written(study)
    browser.open(path)
    browser.value(
        "data.utterances.forEach(said => said.clips.filter(clip => !clip.error).forEach(clip => player(clip)))"
    )
    ready = "data.utterances.flatMap(s => s.clips).filter(c => c.audio && c.audio.readyState === 4).length"
    browser.until(f"{ready} === {3 * 5}")
    assert browser.value("document.querySelectorAll('.failed').length") == 3  # the poisoned utterance, three times
    assert "cannot say poison" in browser.value("document.querySelector('.failed').textContent")


def choose(browser: Browser, field: str, value: str) -> list[str]:
    browser.value(
        f"(() => {{ const f = document.getElementById('{field}'); f.value = {json.dumps(value)};"
        " f.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    return browser.value(ROWS)


def test_filters_and_order(study: Path, browser: Browser) -> None:
    path, data = written(study)
    rates = {said["id"]: [clip.get("figures", {}).get("wer") for clip in said["clips"]] for said in data["utterances"]}
    known = {name: [rate for rate in row if rate is not None] for name, row in rates.items()}
    everyone = list(rates)
    browser.open(path)
    assert browser.value(ROWS) == everyone
    assert choose(browser, "speaker", "ben") == ["u/1", "u/3", "u/5"]
    assert browser.value("document.getElementById('count').textContent") == "3 of 6 utterances"
    choose(browser, "speaker", "")

    wrong = [name for name in everyone if any(known[name])]
    assert 0 < len(wrong) < 6
    assert choose(browser, "errors", "some") == wrong
    assert choose(browser, "errors", "none") == [name for name in everyone if known[name] and name not in wrong]
    choose(browser, "errors", "")

    def by_mean(name: str) -> float:
        return sum(known[name]) / len(known[name])

    last = ["u/5"]  # it failed, so it has no WER
    assert choose(browser, "sort", "high:wer") == [*sorted(everyone[:5], key=lambda name: -by_mean(name)), *last]
    assert choose(browser, "by", "1") == [*sorted(everyone[:5], key=lambda name: -rates[name][1]), *last]
    assert choose(browser, "sort", "low:wer") == [*sorted(everyone[:5], key=lambda name: rates[name][1]), *last]
    choose(browser, "sort", "")

    browser.key("/")
    assert browser.value("document.activeElement.id") == "find"
    for letter in "ber 3":
        browser.key(letter)
    assert browser.value(ROWS) == ["u/3"]
    browser.key("Escape")
    assert browser.value("document.activeElement.id") != "find"
    choose(browser, "find", "nowhere to be found")
    assert browser.value("document.getElementById('nothing').hidden") is False
    browser.click("#clear")
    assert browser.value(ROWS) == everyone

    browser.click("#methods label:nth-of-type(2) input")
    assert browser.value("[...document.querySelectorAll('.clip')].filter(c => !c.hidden).length") == 2 * 6


def test_hover_and_arrow_keys_tell_of_a_token(study: Path, browser: Browser) -> None:
    path, data = written(study)
    browser.open(path)
    clip, canvas = clip_of(data, 0, 2), "section:nth-of-type(1) .clip:nth-of-type(3) canvas"
    box, at = browser.place(canvas), len(clip["tokens"]) // 2
    browser.mouse("mouseMoved", box["x"] + (at + 0.5) * box["width"] / len(clip["tokens"]), box["y"] + 50)
    shown = browser.value("document.getElementById('tip').innerText")
    assert f"token {at + 1} of {len(clip['tokens'])}" in shown
    for line in (
        f"token id\n{clip['tokens'][at]}",
        f"target's probability\n{clip['target'][at]:.3f}",
        "draft's probability\n" + ("not drafted" if clip["kinds"][at] == "b" else f"{clip['draft'][at]:.3f}"),
        f"group size\n{clip['sizes'][at]:g}",
    ):
        assert line in shown.replace("\n\n", "\n").replace("\t", "\n")
    browser.mouse("mouseMoved", 1, 1)
    assert browser.value("document.getElementById('tip').hidden")

    browser.value(f"document.querySelector({json.dumps(canvas)}).focus()")
    for key in ("End", "ArrowLeft"):
        browser.key(key)
    assert browser.value("document.activeElement.getAttribute('aria-valuenow')") == str(len(clip["tokens"]) - 1)
    assert f"token id {clip['tokens'][-2]}" in browser.value("document.activeElement.getAttribute('aria-valuetext')")
    browser.key("Enter")
    browser.until(f"playing && playing.audio.currentTime >= {clip['seconds'] - 0.21}")
    browser.value(f"document.querySelector({json.dumps(canvas)}).blur()")
    assert browser.value("document.getElementById('tip').hidden")


def test_waveforms_are_drawn_when_they_come_near_and_in_both_themes(study: Path, browser: Browser) -> None:
    path, _ = written(study)
    colored = (
        "(() => { const c = document.querySelector('canvas');"
        " const d = c.getContext('2d').getImageData(0, 44, c.width, 1).data;"
        " return [...d].some(x => x) ? String(d.slice(0, 4)) : ''; })()"
    )
    browser.open(path, width=400, height=700)
    browser.until(f"{colored} !== ''")
    assert browser.value("document.documentElement.scrollWidth") <= 400
    last = "document.querySelector('section:nth-of-type(5) .clip:nth-of-type(3) canvas')"
    assert browser.value(f"{last}.width") == 300  # an untouched canvas
    browser.value(f"{last}.scrollIntoView({{behavior: 'instant'}})")
    browser.until(f"{last}.width !== 300")
    before = browser.value(colored)
    browser.click("#theme")
    browser.until(f"{colored} !== '{before}'")  # drawn anew with the next frame


def test_records_of_earlier_versions_show_what_they_have(study: Path, browser: Browser, monkeypatch) -> None:
    read = store.read_utterances
    late = ("group_sizes", "target_probs", "draft_probs")
    monkeypatch.setattr(
        store, "read_utterances", lambda at: [{k: v for k, v in r.items() if k not in late} for r in read(at)]
    )
    path, data = written(study)
    assert clip_of(data, 0, 2)["target"] == []
    browser.open(path)
    browser.value("document.querySelector('section:nth-of-type(1) .clip:nth-of-type(3) canvas').focus()")
    browser.key("Home")
    assert "token id" in browser.value("document.getElementById('tip').innerText")
    assert "probability" not in browser.value("document.getElementById('tip').innerText")


def test_every_control_has_a_name(study: Path, browser: Browser) -> None:
    path, _ = written(study)
    browser.open(path)
    controls: dict[str, list[str]] = {}
    for node in browser("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value")
        if role in ("button", "slider", "checkbox", "combobox", "searchbox") and not node["ignored"]:
            controls.setdefault(role, []).append(node["name"]["value"])
    assert set(controls) == {"button", "slider", "checkbox", "combobox", "searchbox"}
    assert all(name for names in controls.values() for name in names)
    assert "Play exact" in controls["button"]
    assert "Tokens of pcg theta=0.5" in controls["slider"]

    browser.key("?")
    assert browser.value("document.getElementById('keys').open")
    browser.key("j")  # means nothing while the list is open
    assert browser.value("current === null")
    browser.key("Escape")
    assert not browser.value("document.getElementById('keys').open")
