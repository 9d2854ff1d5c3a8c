"""The bundled pair's prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pcg.models.phonemes import Phonemes, phonemize
from pcg.types import Utterance
from tests.fakes import make_bundled_folder

TEXTS = [
    "Hello there.",
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
    with pytest.raises(ValueError, match=r"utterance u: phonemes .* 'h' \(LATIN SMALL LETTER H\)$"):
        text.prompt(Utterance("u", "A hat."), None)
    assert len(text.prompt(Utterance("u", "A fox."), None)) == 3 + len(phonemize("A fox.").replace(" ", ""))


def test_incomplete_table_is_named(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    (folder / "tokens.json").write_text('{"markers": {}}')
    with pytest.raises(ValueError, match=r"tokens\.json lacks phonemes, audio_offset, audio_tokens"):
        Phonemes(str(folder))
