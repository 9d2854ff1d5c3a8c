"""One text, said sentence by sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pcg.constraints import checked
from pcg.data.audio import recorded_in
from pcg.files import absent
from pcg.text import says_something, sentences
from pcg.types import Utterance


@checked
class Spoken:
    """An utterance a sentence, all in the voice of one recording or of none.

    Args:
        text: what to say.
        voice: audio file of the voice; None for the model's own.
        voice_text: what the recording says; needed with one, because models read it before the text.

    Raises:
        ValueError: naming everything that is wrong with the arguments.
    """

    def __init__(self, text: str, voice: str | None = None, voice_text: str = "") -> None:
        file = None if voice is None else Path(voice).expanduser()
        gone = None if file is None or file.is_file() else absent(file) or f"{file} is no file"
        wrong = [
            message
            for bad, message in [
                (not says_something(text), f"text={text!r}: has neither a letter nor a digit to say"),
                (gone is not None, f"voice: {gone}"),
                (voice is not None and not voice_text.strip(), "voice_text is required with voice: what it says"),
                (voice is None and voice_text.strip(), "voice is required with voice_text: the recording of it"),
            ]
            if bad
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        self._sentences, self._voice, self._voice_text = sentences(text), file, voice_text.strip()

    def __len__(self) -> int:
        return len(self._sentences)

    def __iter__(self) -> Iterator[Utterance]:
        voice = None if self._voice is None else recorded_in(self._voice)
        for number, sentence in enumerate(self._sentences, 1):
            yield Utterance(f"spoken-{number:04d}", sentence, prompt_text=self._voice_text, load_prompt=voice)
