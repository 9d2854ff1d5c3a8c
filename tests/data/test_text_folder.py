from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pcg.data.text_folder import TextFolder


def test_each_text_has_its_own_voice_or_none(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Spoken\nby nobody. ")
    (tmp_path / "a.txt").write_text("Spoken by me.")
    (tmp_path / "a.prompt").write_text("This is me.\n")
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.1), 16_000)
    mine, nobodys = TextFolder(str(tmp_path))
    assert (mine.id, mine.text, mine.prompt_text) == ("a", "Spoken by me.", "This is me.")
    assert mine.load_prompt().seconds == pytest.approx(0.1)
    assert (nobodys.id, nobodys.text, nobodys.load_prompt) == ("b", "Spoken by nobody.", None)
    assert len(TextFolder(str(tmp_path), limit=1)) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: no such file or folder"):
        TextFolder(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"holds no \*\.txt"):
        list(TextFolder(str(tmp_path)))
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"a\.txt is empty"):
        list(TextFolder(str(tmp_path)))
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "a.wav").touch()
    with pytest.raises(ValueError, match=r"a\.wav has no words: a\.prompt is missing"):
        list(TextFolder(str(tmp_path)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("Spoken by me.")
    (tmp_path / "a.prompt").write_text("This is me.")
    return tmp_path


@pytest.mark.parametrize("name", ["a.wav", "a.WAV", "a.flac", "a.FLAC", "a.ogg", "a.Mp3", "a.aiff"])
def test_a_voice_may_be_whatever_soundfile_reads(folder: Path, name: str) -> None:
    with (folder / name).open("wb") as file:
        kind = Path(name).suffix[1:].upper()
        soundfile.write(file, np.sin(np.arange(16_000)), 16_000, format=kind)
    (utterance,) = TextFolder(str(folder))
    assert utterance.prompt_text == "This is me."
    assert utterance.load_prompt().source == str(folder / name)
    assert utterance.load_prompt().seconds == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("beside", "problem"),
    [
        ([], r"a\.prompt has no voice: a\.wav, \.flac, \.mp3, \.\.\. is missing beside it$"),
        (["a.pdf"], r"has no voice: a\.wav, .* beside it \(there is a\.pdf\)"),
        (["a.m4a"], r"a\.m4a cannot be read; convert it to WAV, FLAC, OGG or MP3"),
        (["a.wav", "a.flac"], r"a\.txt has more than one voice: a\.flac, a\.wav"),
        (["a.wav", "b.prompt"], r"b\.prompt has no text: b\.txt is missing beside it"),
    ],
)
def test_a_voice_is_used_or_its_files_are_named(folder: Path, beside: list[str], problem: str) -> None:
    for name in beside:
        (folder / name).touch()
    with pytest.raises(ValueError, match=problem):
        list(TextFolder(str(folder)))


def test_hidden_files_and_capitals(folder: Path) -> None:
    (folder / "a.wav").touch()
    for name in ("._a.txt", "._a.wav", ".notes.txt"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / "a.prompt").rename(folder / "a.PROMPT")
    (folder / "B.TXT").write_text("\ufeffSpoken by nobody.", encoding="utf-8")
    assert [(u.id, u.text, u.prompt_text) for u in TextFolder(str(folder))] == [
        ("B", "Spoken by nobody.", ""), ("a", "Spoken by me.", "This is me."),
    ]  # fmt: skip
