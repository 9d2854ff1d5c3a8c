"""A user's own lines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pcg.constraints import Limit, checked
from pcg.data.audio import recorded_in
from pcg.data.reading import lines_of
from pcg.files import no_file
from pcg.types import Utterance


@checked
class Texts:
    """One utterance a line of a text file, blank lines left out, all in the voice of one prompt or of none.

    An utterance is named by its line number, so that its random numbers stay when other lines change.

    Args:
        path: text file in UTF-8, or in the encoding that its byte-order mark tells.
        prompt: audio file of the voice; None for none.
        prompt_text: what the prompt says; needed with a prompt, because models read it before the text.
        limit: first N lines; None for all.

    Raises:
        ValueError: naming everything that is wrong with the arguments.
    """

    def __init__(self, path: str, prompt: str | None = None, prompt_text: str = "", limit: Limit = None) -> None:
        file = Path(path).expanduser()
        voice = None if prompt is None else Path(prompt).expanduser()
        wrong = [
            message
            for bad, message in [
                (not file.is_file(), f"path={no_file(file)}"),
                (voice is not None and not voice.is_file(), f"prompt={voice and no_file(voice)}"),
                (prompt is not None and not prompt_text.strip(), "prompt_text: must say what the prompt says"),
                (prompt is None and prompt_text.strip(), "prompt_text: given without a prompt"),
            ]
            if bad
        ]
        lines = [] if wrong else lines_of(file)
        self._lines = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()][:limit]
        if not wrong and not self._lines:
            wrong.append(f"path={path}: holds no text")
        if wrong:
            raise ValueError("dataset: " + "; ".join(wrong))
        self._name, self._prompt, self._prompt_text = file.stem, voice, prompt_text.strip()

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[Utterance]:
        voice = None if self._prompt is None else recorded_in(self._prompt)
        for number, line in self._lines:
            yield Utterance(
                id=f"{self._name}-{number:04d}",
                text=line,
                prompt_text=self._prompt_text,
                load_prompt=voice,
            )
