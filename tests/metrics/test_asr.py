from __future__ import annotations

import pytest

from pcg.metrics.asr import WordErrors, normalise
from pcg.metrics.moonshine import Moonshine
from pcg.metrics.pocketsphinx import PocketSphinx
from pcg.types import Utterance
from tests.metrics.conftest import quality_of


@pytest.mark.parametrize(
    ("spelled", "printed"),
    [
        ("fifty-two snakes", "52 snakes"),
        ("In seventeen twenty-four, Oliver", "In 1724, Oliver."),
        ("seven hundred and sixty-two dollars", "$762"),
        ("thirty-one thousand five hundred and four people", "31,504 people"),
        ("leaves at five forty-nine", "leaves at 5:49"),
        ("leaves at one forty-five", "leaves at 1.45"),
        ("leaves at one forty-five", "leaves at 1:45"),
        ("a hundred and one", "a 101"),
        ("Mister O'Brien and Missus Baker", "Mr. O'Brien and Mrs. Baker"),
        ("Doctor Colour", "Dr. Color"),
        ("  Why -- me?  ...", "why me"),
        ("I don’t know what you’re saying.", "I don't know what you're saying."),
        ("It ʼs what he‛d have, rock ’n’ roll; dogs’ hats", "It's what he'd have, rock 'n' roll; dogs' hats"),
        ("\ufeffHello there.", "Hello there."),
        ("hel\u200blo\u2060 wor\u00adld\u200e", "hello world"),
        ("cafe\u0301 ﬁne Ｈｉ", "café fine hi"),
        ("hello (aside said aloud)", "Hello, aside said aloud."),
        ("[all] of <this> {too}", "all of this too"),
        ("½ a cup", "one half a cup"),
        ("It is ¼ mile.", "It is a quarter mile."),
        ("2½ cups", "two and a half cups"),
        ("2 1/2 cups", "2.5 cups"),
        ("¾ of ⅓", "three quarters of one third"),
        ("Salt & pepper @ home", "salt and pepper at home"),
        ("It was 20 °C, or 20°.", "it was twenty degrees Celsius or twenty degrees"),
        ("3² = 9", "three squared equals nine"),
        ("Wait…5—or 6", "wait five or six"),
    ],
)
def test_normaliser_maps_both_ways_of_writing_to_one(spelled, printed):
    assert normalise(spelled) == normalise(printed)


def test_normaliser_keeps_what_differs_apart():
    assert normalise("(aside)") != normalise("")
    assert normalise("2½") != normalise("2") != normalise("½")
    assert normalise("sixty-two") != normalise("sixty-three")
    assert normalise("five hats, six shoes") == "5 hats 6 shoes"


@pytest.mark.parametrize(
    ("text", "heard", "word_errors", "words", "char_errors", "chars"),
    [
        ("The cat sat.", "the cat sat", 0, 3, 0, 11),
        ("The cat sat.", "the bat sat", 1, 3, 1, 11),
        ("The cat sat.", "", 3, 3, 11, 11),
        ("", "two words", 2, 0, 7, 0),
        ("", "", 0, 0, 0, 0),
        ("...", "!", 0, 0, 0, 0),
        ("\ufeffI don’t (ever).", "I don't ever", 0, 4, 0, 13),
    ],
)
def test_counts_by_hand(noise, text, heard, word_errors, words, char_errors, chars):
    metric = WordErrors(lambda samples: heard, suffix="_x")
    (row,) = metric.score([noise], [Utterance("a", text)])
    assert row == {
        "transcript_x": heard,
        "word_errors_x": word_errors,
        "words_x": words,
        "char_errors_x": char_errors,
        "chars_x": chars,
    }
    assert {key: figure.ratio for key, figure in metric.figures.items()} == {
        "wer_x": ("word_errors_x", "words_x"), "cer_x": ("char_errors_x", "chars_x")
    }  # fmt: skip
    assert [figure.heading for figure in metric.figures.values()] == ["WER x %", "CER x %"]


def test_empty_audio_deletes_every_word(nothing):
    (row,) = WordErrors(Moonshine()).score([nothing], [Utterance("a", "Three small words.")])
    assert (row["transcript"], row["word_errors"], row["words"]) == ("", 3, 3)


@pytest.mark.parametrize(("recogniser", "clean"), [(Moonshine, 0.1), (PocketSphinx, 0.6)])
def test_speech_is_understood_and_noise_is_not(recogniser, clean, spoken, noise):
    utterances, audio = zip(*spoken[:4], strict=True)
    metric = WordErrors(recogniser())
    wer = quality_of(metric.score(audio, utterances), metric.figures)["wer"]
    assert wer < clean
    assert quality_of(metric.score([noise], utterances[:1]), metric.figures)["wer"] > 0.8


@pytest.mark.parametrize("recogniser", [Moonshine, PocketSphinx])
def test_an_answer_does_not_depend_on_earlier_calls(recogniser, spoken, noise):
    listen = recogniser()
    first, second = (audio.samples for _, audio in spoken[:2])
    alone = listen(first)
    listen(noise.samples)
    listen(second)
    assert listen(first) == alone


def test_other_sample_rates_are_resampled(spoken):
    import soxr

    utterance, audio = spoken[1]
    slow = type(audio)(soxr.resample(audio.samples, 16_000, 24_000), 24_000)
    here, there = WordErrors(Moonshine()).score([audio, slow], [utterance, utterance])
    assert abs(here["char_errors"] - there["char_errors"]) <= 3
