"""The lines of a user's text file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pcg.constraints import Limit, checked
from pcg.data.audio import recorded_in, voice_problems
from pcg.data.reading import lines_of
from pcg.files import no_file
from pcg.types import Utterance


@checked
class Texts:
    """One utterance for each line of a text file that is not blank, all in the voice of one prompt or of none.

    An utterance's id is its line number, so that its random numbers stay when other lines change.

    Args:
        path: text file in UTF-8, or in the encoding of its byte-order mark.
        prompt: audio file of the voice; None for none.
        prompt_text: what the prompt says, which models read before the text; required with a prompt.
        limit: first N lines; None for all.

    Raises:
        ValueError: an argument is wrong; the message names all that are.
    """

    def __init__(self, path: str, prompt: str | None = None, prompt_text: str = "", limit: Limit = None) -> None:
        file = Path(path).expanduser()
        voice = None if prompt is None else Path(prompt).expanduser()
        problems = [f"path={problem}"] if (problem := no_file(file)) else []
        problems += voice_problems(voice, prompt_text, ("prompt", "prompt_text"))
        lines = [] if problems else lines_of(file)
        self._lines = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()][:limit]
        if not problems and not self._lines:
            problems.append(f"path={path}: the file has no text")
        if problems:
            raise ValueError("dataset: " + "; ".join(problems))
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
