"""Seed-TTS-eval (Anastassiou et al. 2024, arXiv 2406.02430): English and Chinese texts with a voice prompt each."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

from pcg.constraints import Limit, checked
from pcg.data.audio import SUFFIXES, recorded_in
from pcg.data.reading import lines_of
from pcg.files import absent
from pcg.types import Utterance


@checked
class SeedTTS:
    """Each line is ``id|prompt text|prompt audio|text`` and, in some lists, ``|recording of the text``.

    Audio paths are relative to the list. The last field is a recording if it ends as an audio file does; any other
    ``|`` belongs to the text. If the list names no recording, ``wavs/<id>.wav`` beside it is used if it exists. Each
    prompt is a speaker of its own.

    Args:
        path: the folder of the set, as published; or a list, of any language.
        language: ``en`` or ``zh``, the half of the folder.
        file: the list in that half: ``meta.lst``, or ``hardcase.lst`` (texts that are hard to say, Chinese only).
        limit: first N utterances; None for all.

    Raises:
        ValueError: there is no such folder or file, it has no lines, or a line has another form.
    """

    def __init__(
        self, path: str, language: Literal["en", "zh"] = "en", file: str = "meta.lst", limit: Limit = None
    ) -> None:
        root, self._limit = Path(path).expanduser(), limit
        self._file = root / language / file if root.is_dir() else root
        if not self._file.is_file():
            raise ValueError(f"path={path}: no such file" + (f" as {language}/{file} in it" if root.is_dir() else ""))

    @cached_property
    def _utterances(self) -> tuple[Utterance, ...]:
        lines = [line for line in lines_of(self._file) if line.strip()]
        if not lines:
            raise ValueError(f"{self._file} holds no lines")
        return tuple(self._utterance(number, line.split("|")) for number, line in enumerate(lines[: self._limit], 1))

    def _utterance(self, number: int, fields: list[str]) -> Utterance:
        where = f"{self._file} line {number}"
        if len(fields) < 4:
            raise ValueError(f"{where}: {len(fields)} fields; expected id|prompt text|prompt audio|text[|recording]")
        recorded = len(fields) > 4 and Path(fields[-1].strip()).suffix.lower() in SUFFIXES
        name, prompt_text, prompt = (field.strip() for field in fields[:3])
        text = "|".join(fields[3:-1] if recorded else fields[3:]).strip()
        prompt_file, recording = self._file.parent / prompt, self._file.parent / f"wavs/{name}.wav"
        if problem := absent(prompt_file):
            raise ValueError(f"{where}: the voice prompt is missing: {problem}")
        if recorded:
            recording = self._file.parent / fields[-1].strip()
            if problem := absent(recording):
                raise ValueError(f"{where}: the recording of the text is missing: {problem}")
        elif recording.is_symlink() and (problem := absent(recording)):
            raise ValueError(f"{where}: {problem}")
        return Utterance(
            id=name,
            text=text,
            speaker=prompt_file.stem,
            prompt_text=prompt_text,
            load_prompt=recorded_in(prompt_file),
            load_reference=recorded_in(recording) if recording.is_file() else None,
        )

    def __len__(self) -> int:
        return len(self._utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)
