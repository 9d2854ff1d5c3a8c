"""One way of writing a text."""

from __future__ import annotations

import pytest

from pcg.text import plain, says_something, sentences


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("Plain text, as it is; 'quoted' (and bracketed) - 10-12, 1/2/2024, 3/12 & 3.5/5.",) * 2,
        ("I don’t, don‘t, donʼt, don´t", "I don't, don't, don't, don't"),
        ("\ufeffHel\u200blo\u00a0wor\u00adld\u2060 \ufe0f\x07there", "Hello world there"),
        ("well‐known, non‑stop, −5", "well-known, non-stop, -5"),
        ("He paused--then -- left - slowly – or ― so", "He paused — then — left — slowly — or — so"),
        ("1999--2003 or 10 - 5", "1999--2003 or 10 - 5"),
        ("cafe\u0301 ﬁne Ｈｅ Ⅳ ４", "café fine He IV 4"),
        ("½ cup, 2½ cups, 2 ¾, ⅔", "one half cup, 2 and a half cups, 2 and 3 quarters, 2 thirds"),
        ("1/2 or 7/10", "one half or 7 tenths"),
        ("5 m² → 你好 🙂", "5 m² → 你好 🙂"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_many_ways_of_typing_are_one_way_of_writing(typed, written):
    assert plain(typed) == written
    assert plain(written) == written


@pytest.mark.parametrize(("text", "does"), [("a", True), ("7", True), ("你好", True), ("... 🙂 —", False), ("", False)])
def test_what_says_something(text, does):
    assert says_something(text) is does


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Good morning. How are you?", ["Good morning.", "How are you?"]),
        ("Dr. Smith met J. R. Hall at 3.5 km. He left!", ["Dr. Smith met J. R. Hall at 3.5 km.", "He left!"]),
        ("One\n\nTwo\nthree", ["One", "Two three"]),
        ("你好。再见！", ["你好。", "再见！"]),
        ("Yes. ... No.", ["Yes.", "... No."]),
        ("Yes. ...", ["Yes. ..."]),
        ("... ", []),
        ("one two, three four five", ["one two,", "three", "four five"]),
        ("unbreakable", ["unbreakable"]),
    ],
)
def test_texts_are_said_in_sentences(text, pieces):
    assert sentences(text, longest=300 if "." in text or "。" in text else 10) == pieces
