from __future__ import annotations

import numpy as np
import pytest
import soundfile

from pcg.data.libritts_local import LibriTTSLocal
from pcg.data.text_folder import TextFolder
from pcg.data.texts import Texts


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("First line.\n\n  Second, in the naïve café.  \nThird?\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def voice(tmp_path):
    path = tmp_path / "me.wav"
    soundfile.write(path, np.stack([np.full(2400, 0.5), np.zeros(2400)], 1), 24_000)
    return str(path)


def test_one_utterance_a_line_named_by_line_number(lines):
    utterances = list(Texts(lines))
    assert [(u.id, u.text) for u in utterances] == [
        ("mine-0001", "First line."),
        ("mine-0003", "Second, in the naïve café."),
        ("mine-0004", "Third?"),
    ]
    assert all(u.load_prompt is None and u.load_reference is None for u in utterances)
    assert len(Texts(lines, limit=2)) == 2


def test_prompt_is_read_as_mono_when_asked_for(lines, voice):
    utterance = next(iter(Texts(lines, prompt=voice, prompt_text="Hello.")))
    audio = utterance.load_prompt()
    assert utterance.prompt_text == "Hello."
    assert audio.sample_rate == 24_000
    assert audio.seconds == pytest.approx(0.1)
    np.testing.assert_allclose(audio.samples, 0.25, atol=1e-4)


def test_everything_wrong_is_named_at_once(tmp_path, lines, voice):
    with pytest.raises(
        ValueError, match=r"path=.*no such file or folder; prompt=.*no such file or folder; prompt_text"
    ):
        Texts(str(tmp_path / "none.txt"), prompt=str(tmp_path / "none.wav"))
    with pytest.raises(ValueError, match="limit=0"):
        Texts(lines, limit=0)
    with pytest.raises(ValueError, match="prompt is required with prompt_text"):
        Texts(lines, prompt_text="Hello.")
    with pytest.raises(ValueError, match="prompt_text is required with prompt"):
        Texts(lines, prompt=voice)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(ValueError, match="the file has no text"):
        Texts(str(empty))


def test_a_folder_is_no_text_and_a_text_no_folder(tmp_path, lines):
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        Texts(str(tmp_path))
    for dataset in (TextFolder, LibriTTSLocal):
        with pytest.raises(ValueError, match="is a file, expected a folder"):
            dataset(lines)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to("gone")
        with pytest.raises(ValueError, match="link is a link to gone, which is not there"):
            dataset(str(tmp_path / "link"))
