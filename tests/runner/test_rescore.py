"""Metrics after decoding, and anew on a finished run's audio."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pcg.config.validate import ConfigError
from pcg.results import store
from pcg.runner import rescore, run
from tests.tiny.parts import calls

Config = Callable[..., dict[str, Any]]


def anew(folder: str, **metric: Any) -> dict[str, Any]:
    node = {"_target_": "pcg.tiny.Loudness", **metric}
    return {"run": folder, "metrics": {"loudness": node}, "device": "cpu", "threads": 1}


def test_after_gives_the_figures_of_inline(config: Config) -> None:
    inline = run.run_once(config())
    assert calls["clips"] == 12  # the run's and the target's
    after = run.run_once(config(**{"study": "after", "metrics.when": "after"}))
    assert after.values["run_id"] == inline.values["run_id"]  # when they are scored decides no figure
    for key, value in inline.values["quality"].items():
        assert after.values["quality"][key] == pytest.approx(value, abs=1e-3), key  # 16-bit audio
    rows = [store.read_utterances(Path(result.folder)) for result in (inline, after)]
    assert [row["mos"] for row in rows[0]] == pytest.approx([row["mos"] for row in rows[1]], abs=1e-3)
    assert rows[0][0].keys() == rows[1][0].keys()


def test_a_finished_run_is_scored_anew_without_decoding(config: Config) -> None:
    result = run.run_once(config())
    before, calls["models"] = (Path(result.folder) / "result.json").read_bytes(), 0
    path = rescore.rescore(anew(result.folder, offset=1.0))
    document = json.loads(path.read_text())
    assert calls["models"] == 0
    for key in ("mos", "baseline_mos"):
        assert document["quality"][key] == pytest.approx(result.values["quality"][key] + 1, abs=1e-3)
    assert document["quality"]["wer"] == pytest.approx(result.values["quality"]["wer"])
    assert document["run_id"] == result.values["run_id"]
    assert document["metrics"]["loudness"]["offset"] == 1.0
    assert (Path(result.folder) / "result.json").read_bytes() == before
    calls["clips"] = 0
    assert rescore.rescore(anew(result.folder, offset=1.0)) == path
    assert calls["clips"] == 0  # known


def test_a_failed_utterance_is_not_scored(config: Config) -> None:
    result = run.run_once(config(**{"dataset.poison": [1], "metrics.when": "after"}))
    assert len(result.values["failures"]) == 1
    assert result.values["quality"]["mos"] is not None


def test_what_is_gone_is_named(config: Config) -> None:
    result = run.run_once(config())
    next(Path(result.folder).glob("audio/u_0-*.wav")).unlink()
    with pytest.raises(ValueError, match=r"1 audio file\(s\) of the run are gone, the first is audio/u_0-\w+\.wav"):
        rescore.rescore(anew(result.folder))
    with pytest.raises(ValueError, match="no finished run there"):
        rescore.rescore(anew(str(Path(result.folder).parent)))


def test_audio_lies_where_the_record_says(config: Config) -> None:
    """Its names were others in earlier versions, in which two utterances might share one."""
    folder = Path(run.run_once(config()).folder)
    records = folder / "batches.jsonl"
    text = records.read_text()
    names = sorted(path.name for path in (folder / "audio").iterdir())
    for index, name in enumerate(names):
        text = text.replace(name, f"old_{index}.wav")
        for place in ("audio", "baseline_audio"):
            (folder / place / name).rename(folder / place / f"old_{index}.wav")
    records.write_text(text)
    assert json.loads(rescore.rescore(anew(str(folder))).read_text())["quality"]["baseline_mos"]
    records.write_text(text.replace("old_1.wav", "old_0.wav"))
    with pytest.raises(ValueError, match="share an audio file, as names did in earlier versions: move"):
        rescore.rescore(anew(str(folder), offset=2.0))


def test_a_wrong_config_is_named_at_once(config: Config, tmp_path: Path) -> None:
    wrong = {**anew(str(tmp_path), ofset=1.0), "threads": 0}
    with pytest.raises(ConfigError) as caught:
        rescore.check(wrong)
    assert [problem.split(";")[0].split(":")[0] for problem in caught.value.problems] == [
        "threads=0", "metrics.loudness.ofset", f"run={tmp_path}",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"metrics\.when='later': expected one of 'inline', 'after'"):
        run.run_once(config(**{"metrics.when": "later"}))


def test_the_run_tells_the_language_that_metrics_are_to_hear(config: Config) -> None:
    folder = Path(run.run_once(config()).folder)
    result = json.loads((folder / store.NAME).read_text())
    result["config"]["dataset"]["language"] = "zh"
    (folder / store.NAME).write_text(json.dumps(result))
    words = {"_target_": "pcg.metrics.asr.WordErrors", "recogniser": {"_target_": "pcg.metrics.moonshine.Moonshine"}}
    with pytest.raises(ConfigError, match=r"metrics\.asr\.language=en: the texts are zh"):
        rescore.check({**anew(str(folder)), "metrics": {"asr": words}})
    (folder / store.NAME).write_text(json.dumps({**result, "schema": 999}))
    with pytest.raises(ConfigError, match="schema 999"):
        rescore.check(anew(str(folder)))


def test_audio_is_not_held_to_a_text_or_a_voice_that_it_was_not_decoded_of(config: Config, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for name in "ab":
        (texts / f"{name}.txt").write_text(f"Text {name}.")
        (texts / f"{name}.prompt").write_text("Hello.")
        soundfile.write(texts / f"{name}.wav", np.full(80, 0.5), 16_000)
    made = config()
    made["dataset"] = {"_target_": "pcg.data.text_folder.TextFolder", "path": str(texts)}
    folder = run.run_once(made).folder
    before = rescore.rescore(anew(folder))
    (texts / "c.txt").write_text("One that has come since.")
    assert rescore.rescore(anew(folder)) == before
    (texts / "b.txt").write_text("Another text.")
    with pytest.raises(
        ValueError, match=r"has changed since .* utterance 'b' was 'Text b\.' and now is 'Another text\.'"
    ):
        rescore.rescore(anew(folder))
    (texts / "b.txt").write_text("Text b.")
    soundfile.write(texts / "a.wav", np.full(80, 0.25), 16_000)
    with pytest.raises(ValueError, match=r"has changed since .*: utterances have other voices"):
        rescore.rescore(anew(folder))


def test_scores_are_of_the_audio_that_lies_there(config: Config) -> None:
    """As of an utterance that was decoded again after it had been scored."""
    folder = Path(run.run_once(config()).folder)
    first = json.loads(rescore.rescore(anew(str(folder))).read_text())["quality"]["mos"]
    file = max((folder / "audio").iterdir(), key=lambda each: each.stat().st_size)
    samples, rate = soundfile.read(file)
    soundfile.write(file, [*samples, *samples], rate, subtype="PCM_16")
    calls["clips"] = 0
    assert json.loads(rescore.rescore(anew(str(folder))).read_text())["quality"]["mos"] != first
    assert calls["clips"] == 2  # that one and the target alone on the same prompt


def test_a_metric_of_other_weights_scores_anew(tmp_path: Path) -> None:
    node = {"asr": {"_target_": "x", "path": str(tmp_path)}}
    found = set()
    for content in ("{}", "[]"):
        (tmp_path / "config.json").write_text(content)
        found.add(rescore._id(node))
    assert len(found) == 2
