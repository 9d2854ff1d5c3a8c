"""The bundled pair's prompt."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from pcg.models.phonemes import Phonemes, phonemize
from pcg.types import Utterance
from tests.fakes import make_bundled_folder

TEXTS = [
    "Hello there.",
    "Antidisestablishmentarianism is long.",
    "Mr. Fox came at 5 o'clock. Did he say why? No!",
    "It cost $9.99, on the 3rd of March 2024; Siobhan and Nguyen paid.",
    "One long sentence, " * 30 + "and an end.",
]


@pytest.mark.parametrize("text", TEXTS)
def test_phonemes_are_those_that_hibari_speaks(text: str) -> None:
    from hibari import Hibari

    assert phonemize(text) == " ".join(Hibari(threads=1).phonemize(text))


def test_prompt_has_llasas_form(tmp_path: Path) -> None:
    text = Phonemes(str(make_bundled_folder(tmp_path)))
    table = json.loads((tmp_path / "tokens.json").read_text(encoding="utf-8"))
    voice = torch.tensor([7, 0, 95])
    ids = text.prompt(Utterance("u", "Hello there.", prompt_text="A fox."), voice)
    spoken = [table["phonemes"][c] for c in phonemize("A fox.") + " " + phonemize("Hello there.")]
    assert ids.tolist() == [1, *spoken, 2, 3, *(voice + table["audio_offset"]).tolist()]


def test_without_a_voice_prompt_only_the_text_is_there(tmp_path: Path) -> None:
    text = Phonemes(str(make_bundled_folder(tmp_path)))
    alone = text.prompt(Utterance("u", "Hello."), None).tolist()
    assert (alone[0], alone[-2:]) == (1, [2, 3])
    assert len(alone) == 3 + len(phonemize("Hello."))


def test_unknown_phonemes_are_named_not_dropped(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    del tokens["phonemes"]["h"], tokens["phonemes"][" "]  # an unknown space is dropped
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    text = Phonemes(str(folder))
    with pytest.raises(ValueError, match=r"utterance u: .* lists no phonemes 'h' \(LATIN SMALL LETTER H\)$"):
        text.prompt(Utterance("u", "A hat."), None)
    assert len(text.prompt(Utterance("u", "A fox."), None)) == 3 + len(phonemize("A fox.").replace(" ", ""))


def test_incomplete_table_is_named(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    (folder / "tokens.json").write_text('{"markers": {}}')
    with pytest.raises(ValueError, match=r"tokens\.json lacks phonemes, audio_offset, audio_tokens"):
        Phonemes(str(folder))


def spoken(text: str, **changes: str) -> str:
    """What the bundled pair is asked to say."""
    model = Phonemes("bundled:target")
    signs = {number: sign for sign, number in model._phonemes.items()}
    return "".join(signs[i] for i in model.prompt(Utterance("u", text, **changes), None).tolist()[1:-2])


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("Note: this is it.", "Note, this is it."),
        ("He paused; then he left.", "He paused, then he left."),
        ("The rest (most of it) is here.", "The rest, most of it, is here."),
        ("The rest [most of it] is here, {too}.", "The rest most of it, is here, too."),
        ("She waited — and waited.", "She waited, and waited."),
        ("She waited--and -- waited - and–waited.", "She waited, and, waited, and, waited."),
        ("And so on…", "And so on."),
        ("Well... what?! (No!)", "Well. what?! No!"),
        ("“Hello,” he said: “never”.", "“Hello,” he said, never."),
        ("(Aside) he left --", "Aside, he left."),
        ("So (well…). Then; (yes)?", "So, well. Then, yes?"),
        ("Black — (white) — red", "Black, white, red"),
    ],
)
def test_signs_without_a_phoneme_are_pauses(text: str, simple: str) -> None:
    assert spoken(text) == spoken(simple)


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("It is " + "12" * 20 + ".", "It is " + "1 2 " * 20 + "."),
        ("It is 1" + ",000" * 12 + ".", "It is 1" + " 0" * 36 + "."),
        ("½ of 2½ cups", "one half of 2 and a half cups"),
        ("I don’t know what you’re saying.", "I don't know what you're saying."),
        ("\ufeffHel\u200blo there.", "Hello there."),
        ("Cafe\u0301 naïve, È ħere", "Café naïve, è here"),
        ("ζ.", "Zeta."),
        ("A [cat](/dog/) sat", "A cat (dog) sat"),
        ("Great 🙂, she said.", "Great, she said."),
    ],
)
def test_what_the_front_end_cannot_read_is_read_another_way(text: str, simple: str) -> None:
    assert spoken(text).replace(" ,", ",") == spoken(simple)


def test_long_words_are_said_to_the_end() -> None:
    assert spoken("Llanfairpwllgwyngyllgogerychwyrndrobwllllantysiliogogogoch.").endswith("ˌɑɡɑk.")


@pytest.mark.parametrize("text", ["...", "🙂", "— (…)", '"', " "])
def test_a_text_in_which_nothing_is_said_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"utterance u: nothing to say in {re.escape(repr(text))}$"):
        spoken(text, prompt_text="A fox.")


def test_letters_that_cannot_be_said_are_named() -> None:
    with pytest.raises(ValueError, match=r"cannot pronounce '你' \(CJK .*-4F60\), '好' \(CJK .*\) in 'Hello 你好。'"):
        spoken("Hello 你好。")


def test_a_model_that_knows_a_sign_is_given_it(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    tokens["phonemes"][";"] = 63
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    assert 63 in Phonemes(str(folder)).prompt(Utterance("u", "No; yes: no."), None).tolist()
