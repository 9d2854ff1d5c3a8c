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
    soundfile.write(tmp_path / "a.wav", np.zeros(1600), 16_000)
    mine, nobodys = TextFolder(str(tmp_path))
    assert (mine.id, mine.text, mine.prompt_text) == ("a", "Spoken by me.", "This is me.")
    assert mine.load_prompt().seconds == pytest.approx(0.1)
    assert (nobodys.id, nobodys.text, nobodys.load_prompt) == ("b", "Spoken by nobody.", None)
    assert len(TextFolder(str(tmp_path), limit=1)) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        TextFolder(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"holds no \*\.txt"):
        list(TextFolder(str(tmp_path)))
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(ValueError, match=r"a\.txt is empty"):
        list(TextFolder(str(tmp_path)))
    (tmp_path / "a.txt").write_text("Text.")
    (tmp_path / "a.wav").touch()
    with pytest.raises(ValueError, match=r"a\.prompt, which says what it says, is missing"):
        list(TextFolder(str(tmp_path)))
