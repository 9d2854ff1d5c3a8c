"""The listening test without names: in a browser, and its answers read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pcg.command import ratings as command
from pcg.config.validate import ConfigError
from pcg.report import blind, ratings, report
from pcg.report.names import in_order, labels
from pcg.results import store
from pcg.runner.run import run_once
from tests.report.browser import PROGRAM, Browser
from tests.report.test_report import pcg_at

browsing = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine: the page is not tried in a browser")
ASKED = {"study": "tiny", "blind": True, "pairs": 40, "methods": None}


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    for changes in ({}, {"grouping": pcg_at(0.5)}):
        run_once(config(**{"codec.hop": 400, "metrics": {}, **changes}))
    return tmp_path / "outputs" / "tiny"


def written(study: Path, **changes: Any) -> tuple[Path, list[blind.Trial]]:
    results = in_order(store.read_study(study))
    (study / "report").mkdir(exist_ok=True)
    return blind.write(results, labels(results), study / "report", **{"pairs": 40, **changes})


def test_every_two_methods_are_compared_as_often_and_the_page_does_not_tell_which(study: Path) -> None:
    path, trials = written(study, pairs=9)
    two = [tuple(sorted(trial.methods)) for trial in trials]
    assert {pair: two.count(pair) for pair in two} == {
        ("exact", "pcg theta=0.5"): 3, ("exact", "target alone"): 3, ("pcg theta=0.5", "target alone"): 3
    }  # fmt: skip
    assert len({(pair, trial.utterance) for pair, trial in zip(two, trials, strict=True)}) == 9
    page = path.read_text(encoding="utf-8")
    for told in ("exact", "target alone", "theta", *(result.folder for result in store.read_study(study))):
        assert told not in page
    assert not any(Path(result.folder).name in page for result in store.read_study(study))
    assert page.count("data:audio/wav;base64,") == 18
    [key] = (path.parent / "blind").glob("*.json")
    assert json.loads(key.read_text())["trials"].keys() == {trial.id for trial in trials}
    assert written(study, pairs=9)[1] == trials  # the same test again


def test_methods_are_chosen_by_their_names_in_the_table(study: Path) -> None:
    _, trials = written(study, wanted=["exact", "target alone"])
    assert {name for trial in trials for name in trial.methods} == {"exact", "target alone"}
    with pytest.raises(ConfigError, match=r"methods='exat': no such row in the table; did you mean 'exact'"):
        written(study, wanted=["exat", "exact"])
    with pytest.raises(ConfigError, match="the names of two or more rows"):
        written(study, wanted=["exact"])


def test_the_report_writes_it_where_it_is_asked_for(study: Path, capsys) -> None:
    outputs = {"paths": {"outputs": str(study.parent)}}
    folder = report.show_studies({**outputs, **ASKED, "blind": False})
    assert not (folder / "blind.html").exists()
    report.show_studies({**outputs, **ASKED, "methods": ["exact", "pcg theta=0.5"]})
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"blind   {folder}/blind.html: ") for line in lines)
    assert lines[-1].startswith("listen ")
    with pytest.raises(ConfigError) as caught:
        report.check({**outputs, **ASKED, "pairs": 0, "blind": "perhaps"})
    assert len(caught.value.problems) == 2


def saved(path: Path, test: str, listener: str, choices: dict[str, Any], session: str = "") -> Path:
    given = {"kind": "pcg ratings", "version": 1, "test": test, "session": session or listener, "listener": listener}
    path.write_text(json.dumps({**given, "ratings": {trial: {"choice": choice} for trial, choice in choices.items()}}))
    return path


KEY = {
    "test": "t",
    "study": "s",
    "trials": {f"{n}": {"methods": ["b", "a"] if n % 2 else ["a", "b"]} for n in range(8)},
}


def test_preferences_by_hand(tmp_path: Path) -> None:
    """Ann prefers a in five of six and finds two alike; Ben prefers b twice."""
    ann = {"0": 0, "1": 1, "2": 0, "3": 1, "4": 0, "5": 0, "6": "same", "7": "same"}
    files = [saved(tmp_path / "1.json", "t", "Ann", ann), saved(tmp_path / "2.json", "t", "Ben", {"0": 1, "1": 0})]
    listeners = ratings.read_all(files)
    [found] = ratings.preferences(listeners[:1], KEY)
    assert (found.methods, found.first, found.alike, found.second) == (("a", "b"), 5, 2, 1)
    share, (low, high) = found.share
    assert (share, low, high) == (5 / 6, pytest.approx(0.3588, abs=1e-4), pytest.approx(0.9958, abs=1e-4))
    tables = ratings.preference_tables(listeners, KEY)
    assert [title for title, _ in tables] == ["2 listeners", "Ann", "Ben"]
    assert tables[0][1] == [["a / b", "10", "5", "2", "3", "62 [24, 91]"]]
    assert tables[2][1] == [["a / b", "2", "0", "0", "2", "0 [0, 84]"]]


def test_a_listener_who_saved_twice_counts_once(tmp_path: Path) -> None:
    early = saved(tmp_path / "1.json", "t", "Ann", {"0": 0}, "s")
    late = saved(tmp_path / "2.json", "t", "Ann", {"0": 0, "1": 1}, "s")
    for files in ([early, late], [late, early]):
        assert [len(listener.choices) for listener in ratings.read_all(files)] == [2]
    other = saved(tmp_path / "3.json", "t", "Ann", {"0": 1}, "another")
    titles = [title for title, _ in ratings.preference_tables(ratings.read_all([late, other]), KEY)]
    assert titles == ["2 listeners", "Ann (1)", "Ann (2)"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not JSON"),
        ("[]", "not a file of ratings"),
        ('{"kind": "something"}', "not a file of ratings"),
        (json.dumps({"kind": "pcg ratings", "version": 1, "test": "t", "session": "s", "listener": "a",
                     "ratings": {"0": {"choice": 2}}}), "trial 0 has choice=2; allowed: 0, 1, 'same'"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_named(text: str, told: str, tmp_path: Path, capsys) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert command.main([str(path)]) == 2
    assert f"pcg ratings: {path}: {told}" in capsys.readouterr().err


def test_files_of_another_test_and_a_key_that_is_not_here_are_named(tmp_path: Path, capsys) -> None:
    files = [saved(tmp_path / f"{test}.json", test, test, {}) for test in ("one", "two")]
    assert command.main([*map(str, files)]) == 2
    assert "belong to several tests: one, two" in capsys.readouterr().err
    assert command.main([str(files[0]), f"outputs={tmp_path}"]) == 2
    assert f"no {tmp_path}/STUDY/report/blind/one.json" in capsys.readouterr().err
    assert command.main([str(tmp_path / "nothing.json")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as opened:
        yield opened
        assert opened.errors == []
        assert all(url.startswith(("file://", "data:", "blob:")) for url in opened.requests)


def rate(browser: Browser, key: str) -> None:
    """Listen to both clips to their ends, then answer."""
    for number, place in (("1", 0), ("2", 1)):
        browser.key(number)
        browser.until(f"heard[{place}] > 0")
    browser.key(key)


@browsing
def test_a_listener_rates_by_keys_goes_on_later_and_the_file_is_read(
    study: Path, browser: Browser, tmp_path: Path, capsys
) -> None:
    path, _ = written(study, pairs=3, wanted=["exact", "target alone"])
    browser.open(path)
    browser.screenshot(tmp_path / "blind.png")
    assert browser.value("choices.every(button => button.disabled)")
    browser.key("ArrowLeft")  # means nothing before both are heard
    assert browser.value("state.at") == 0
    answers = {}
    for key in ("ArrowLeft", "ArrowDown"):
        trial, shown = browser.value("trial().id"), browser.value("clipOf(0)")
        rate(browser, key)
        answers[trial] = shown if key == "ArrowLeft" else "same"
    assert browser.value("state.at") == 2

    browser.open(path)  # as on another day
    assert browser.value("state.at") == 2
    assert browser.value("document.getElementById('place').textContent") == "Pair 3 of 3"
    browser.key("Backspace")
    assert browser.value("document.querySelector('[data-choice=same]').getAttribute('aria-pressed')") == "true"
    browser.key("ArrowDown")  # what was rated may be rated anew without listening
    browser.click("#listener")
    for letter in "Ann":
        browser.key(letter)
    browser.key("Escape")
    trial, shown = browser.value("trial().id"), browser.value("clipOf(1)")
    rate(browser, "ArrowRight")
    answers[trial] = shown
    assert browser.value("document.getElementById('done').hidden") is False

    browser("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "downloads"))
    browser.click("#save")
    file = tmp_path / "downloads" / f"ratings-{browser.value('data.test')}-Ann.json"
    for _ in range(400):
        if file.exists():
            break
        time.sleep(0.05)
    listener = ratings.read(file)
    assert listener.choices == answers
    assert listener.name == "Ann"
    assert command.main([str(file), f"outputs={study.parent}"]) == 0
    out = capsys.readouterr().out
    assert "exact / target alone" in out
    assert "1 listener" in out
