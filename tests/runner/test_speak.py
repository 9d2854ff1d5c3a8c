"""``pcg speak`` with tiny models: what is written while it is made, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from pcg.config.validate import ConfigError
from pcg.decoding.rows import Prompt
from pcg.runner import composition, speak
from pcg.types import Audio

TEXT = "One two. Three four five! Six?"
Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def asked(config: Callable[..., dict[str, Any]], tmp_path: Path) -> Asked:
    def make(**changes: Any) -> dict[str, Any]:
        run = config()
        kept = {key: run[key] for key in run if key not in ("study", "max_failures", "dataset", "metrics", "logger")}
        own = {"text": TEXT, "voice": None, "voice_text": "", "out": str(tmp_path / "said.wav"), "compare": False}
        return {**kept, **own, **changes}

    return make


@pytest.mark.parametrize("draft", [True, False])
def test_a_file_is_written_and_one_line_printed(
    draft: bool, asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speak.say(asked(**({} if draft else {"draft": {"_target_": None}})))
    samples, rate = soundfile.read(tmp_path / "said.wav")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{len(samples) / rate:.2f} s of audio in {tmp_path / 'said.wav'}: first audio after ")
    assert ", RTF " in line
    assert "the target alone" not in line


def test_the_same_tokens_as_a_run_says_and_the_voice_is_that_of_the_first_sentence(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Prompt] = []
    run = speak.runs.parse(speak._run_of(asked()))
    parts, decoder = composition.with_decoder(run)
    decode = type(decoder).decode

    def watched(self: Any, given: Any, *rest: Any, **options: Any) -> Any:
        prompts.extend(given)
        return decode(self, given, *rest, **options)

    monkeypatch.setattr(type(decoder), "decode", watched)
    said, pieces = speak.Speaker(decoder, parts.codec, parts.target.end, 40, 3), []
    found = said.say(list(parts.dataset), pieces.append)
    _, first, *others = prompts  # the first of all warms up
    assert [each.utterance.text for each in (first, *others)] == ["One two.", "Three four five!", "Six?"]
    [generation] = decode(decoder, [first], 40).generations
    assert first.speech is None
    for other in others:
        assert torch.equal(other.speech, generation.tokens)
        assert other.utterance.prompt_text == "One two."
    whole = sum(len(decode(decoder, [each], 40).generations[0].tokens) for each in (first, *others))
    assert sum(len(piece.samples) for piece in pieces) == whole * parts.codec.hop
    assert len(pieces) > 3
    assert found.audio_seconds == pytest.approx(whole * parts.codec.hop / parts.codec.sample_rate)


def test_a_voice_is_that_of_every_sentence(asked: Asked, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.wav", 0.3 * np.sin(np.arange(8_000) / 5), 8_000)
    config = asked(voice=str(tmp_path / "voice.wav"), voice_text="So it goes.")
    run = speak.runs.parse(speak._run_of(config))
    utterances = list(composition.load(run).dataset)
    assert [each.prompt_text for each in utterances] == ["So it goes."] * 3
    assert all(each.load_prompt().seconds == 1 for each in utterances)
    speak.say(config)
    assert soundfile.info(tmp_path / "said.wav").frames > 0


def test_the_target_alone_is_compared_with(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    speak.say(asked(compare=True))
    assert "x the target alone" in capsys.readouterr().out


def test_a_pipe_gets_the_audio_and_nothing_else(
    asked: Asked, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path
) -> None:
    speak.say(asked())
    capsysbinary.readouterr()
    speak.say(asked(out="-"))
    printed, told = capsysbinary.readouterr()
    whole = (tmp_path / "said.wav").read_bytes()
    assert printed[44:] == whole[44:]
    assert printed[:4] == b"RIFF"
    assert b"s of audio: first audio after" in told


def test_a_wav_holds_what_was_written_when_it_ends_early(tmp_path: Path) -> None:
    def stopped() -> None:
        with speak.Wav(str(tmp_path / "a.wav"), 8_000) as wav:
            wav.write(Audio(np.full(10, 0.5, dtype=np.float32), 8_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    samples, rate = soundfile.read(tmp_path / "a.wav")
    assert (len(samples), rate) == (10, 8_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": " ... "}, r"text=' \.\.\. ': it has neither a letter nor a digit"),
        ({"text": None}, "text=None: expected text"),
        ({"voice": "nowhere.wav", "voice_text": "x"}, r"voice=nowhere\.wav: no such file"),
        ({"voice": "nowhere.wav"}, "voice_text is required with voice"),
        ({"voice_text": "x"}, "voice is required with voice_text"),
        ({"codec": {"_target_": None}}, "codec is required"),
        ({"out": " "}, "out=' ': a file, or -"),
    ],
)
def test_what_is_wrong_is_named_before_anything_is_loaded(changes: dict, message: str, asked: Asked) -> None:
    with pytest.raises(ConfigError, match=message):
        speak.say(asked(**changes))
