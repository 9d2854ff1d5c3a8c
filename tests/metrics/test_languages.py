"""Words of other languages than English, and recognisers that hear them."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from pcg.command import cli
from pcg.config.validate import problems_of_language
from pcg.metrics import languages
from pcg.metrics.asr import WordErrors, figures_of
from pcg.metrics.moonshine import Moonshine
from pcg.metrics.pretrained import MissingPart
from pcg.types import Audio, Utterance
from tests.metrics.conftest import quality_of

CLIP = Audio(np.zeros(16_000, dtype=np.float32), 16_000)


@pytest.fixture
def simplifying(monkeypatch: pytest.MonkeyPatch) -> None:
    """What opencc does to these characters, which is not installed where tests run."""
    table = str.maketrans("說話這個", "说话这个")
    monkeypatch.setattr(languages, "_simplifier", lambda: lambda text: text.translate(table))


def scored(text: str, heard: str, language: str) -> dict[str, float | str | None]:
    return WordErrors(lambda _: heard, language=language).score([CLIP], [Utterance("a", text)])[0]


@pytest.mark.usefixtures("simplifying")
def test_in_chinese_a_word_is_a_character_in_either_script() -> None:
    row = scored("他说：“这个，好！”（说话）", "他說這個 好說話。", "zh")
    assert (row["words"], row["word_errors"], row["chars"], row["char_errors"]) == (7, 0, 7, 0)
    row = scored("他说这个。", "他說那個", "zh")
    found = quality_of([row], figures_of(""))
    assert found["wer"] == found["cer"] == 1 / 4
    row = scored("我用GPT", "我用 gpt", "zh")
    assert (row["words"], row["word_errors"]) == (5, 0)


@pytest.mark.parametrize(
    ("language", "text", "heard", "words", "errors"),
    [
        ("de", "Das Mädchen sagte: „Grüße!“", "das mädchen sagte grüße", 4, 0),
        ("de", "Grüße", "Gruße", 1, 1),
        ("de", "Er kam (endlich) an.", "er kam endlich an", 4, 0),
        ("ja", "はい、そうです。", "はいそうだ", 6, 2),
        ("th", "กินข้าว", "กินข้าว", 5, 0),
    ],
)
def test_other_languages_by_whispers_basic_normaliser(
    language: str, text: str, heard: str, words: int, errors: int
) -> None:
    row = scored(text, heard, language)
    assert (row["words"], row["word_errors"]) == (words, errors)


def test_chinese_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    languages._simplifier.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPart, match=r"opencc.*pcg\[chinese\]"):
        languages.other_than_english("zh")


def test_a_recogniser_of_another_language_is_refused() -> None:
    with pytest.raises(ValueError, match="language=de, but Moonshine transcribes en"):
        WordErrors(Moonshine(), language="de")


def test_metrics_that_hear_another_language_than_the_datasets_are_named() -> None:
    def problems(metrics: str, *overrides: str) -> list[str]:
        asked = [f"metrics={metrics}", "dataset=seedtts", "dataset.path=somewhere", *overrides]
        with initialize_config_dir(cli.CONF, version_base="1.3"):
            config = cli.plain(compose("run", asked))
        return problems_of_language(config["metrics"], config["dataset"])

    assert problems("paper", "dataset.language=zh") == problems("bundled") == problems("none") == []
    [problem] = problems("bundled", "dataset.language=zh")
    assert problem.startswith("metrics.asr.language=en: the texts are zh")
    assert len(problems("bundled_strict", "dataset.language=zh")) == 2
    assert len(problems("paper", "metrics.asr.language=zh")) == 1
