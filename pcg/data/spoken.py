"""One text, sentence by sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pcg.constraints import checked
from pcg.data.audio import recorded_in, voice_problems
from pcg.text import says_something, sentences
from pcg.types import Utterance


@checked
class Spoken:
    """One utterance for each sentence, all in the voice of one recording or in the model's own.

    Args:
        text: what to say.
        voice: audio file of the voice; None for the model's own.
        voice_text: what the recording says, which models read before the text; required with a voice.

    Raises:
        ValueError: an argument is wrong; the message names all that are.
    """

    def __init__(self, text: str, voice: str | None = None, voice_text: str = "") -> None:
        file = None if voice is None else Path(voice).expanduser()
        problems = [] if says_something(text) else [f"text={text!r}: it has neither a letter nor a digit"]
        problems += voice_problems(file, voice_text, ("voice", "voice_text"))
        if problems:
            raise ValueError("; ".join(problems))
        self._sentences, self._voice, self._voice_text = sentences(text), file, voice_text.strip()

    def __len__(self) -> int:
        return len(self._sentences)

    def __iter__(self) -> Iterator[Utterance]:
        voice = None if self._voice is None else recorded_in(self._voice)
        for number, sentence in enumerate(self._sentences, 1):
            yield Utterance(f"spoken-{number:04d}", sentence, prompt_text=self._voice_text, load_prompt=voice)
