"""A user's texts, one file each, each in a voice of its own or in none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from pcg.constraints import Limit, checked
from pcg.data.audio import SUFFIXES, recorded_in
from pcg.data.reading import read_text, visible
from pcg.files import no_folder
from pcg.types import Utterance

_UNREAD_SUFFIXES = (".aac", ".ac3", ".amr", ".m4a", ".mka", ".mp4", ".webm", ".wma")


@checked
class TextFolder:
    """``<name>.txt`` is an utterance, ``<name>.wav`` its voice, and ``<name>.prompt`` the words of the voice.

    The voice may be any file that soundfile reads (``.flac``, ``.mp3``, ...); suffixes may be in capitals. Hidden files
    are ignored.

    Args:
        path: folder.
        limit: first N by name; None for all.

    Raises:
        ValueError: there is no such folder, it has no texts, a text is empty or in an unknown encoding, a voice or its
            words are missing, or a text has two voices.
    """

    def __init__(self, path: str, limit: Limit = None) -> None:
        self._folder, self._limit = Path(path).expanduser(), limit
        if not self._folder.is_dir():
            raise ValueError(f"path={no_folder(self._folder)}")

    @cached_property
    def _utterances(self) -> list[Utterance]:
        beside: defaultdict[str, list[Path]] = defaultdict(list)  # by name, files that are no texts
        texts = []
        for file in visible(self._folder.iterdir()):
            if file.suffix.lower() == ".txt":
                texts.append(file)
            else:
                beside[file.stem].append(file)
        if not texts:
            raise ValueError(f"{self._folder} holds no *.txt")
        unused = [file for name in beside.keys() - {text.stem for text in texts} for file in _prompts(beside[name])]
        if unused:
            raise ValueError(f"{min(unused)} has no text: {min(unused).stem}.txt is missing beside it")
        return [_utterance(file, beside[file.stem]) for file in texts[: self._limit]]

    def __len__(self) -> int:
        return len(self._utterances)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)


def _prompts(files: list[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() == ".prompt"]


def _utterance(file: Path, beside: list[Path]) -> Utterance:
    text = _words(file)
    voice, prompts = _voice(file, beside), _prompts(beside)
    if voice is None and not prompts:
        return Utterance(file.stem, text)
    if voice is None:
        others = [other.name for other in beside if other not in prompts]
        raise ValueError(
            f"{prompts[0]} has no voice: {file.stem}.wav, .flac, .mp3, ... is missing beside it"
            + (f" (there is {', '.join(others)})" if others else "")
        )
    if not prompts:
        raise ValueError(f"{voice} has no words: {file.stem}.prompt is missing beside it")
    return Utterance(file.stem, text, speaker=file.stem, prompt_text=_words(prompts[0]), load_prompt=recorded_in(voice))


def _voice(text: Path, beside: list[Path]) -> Path | None:
    unreadable = [file for file in beside if file.suffix.lower() in _UNREAD_SUFFIXES]
    if unreadable:
        raise ValueError(f"{unreadable[0]} cannot be read; convert it to WAV, FLAC, OGG or MP3")
    voices = [file for file in beside if file.suffix.lower() in SUFFIXES]
    if len(voices) > 1:
        raise ValueError(f"{text} has more than one voice: {', '.join(file.name for file in voices)}; keep one")
    return voices[0] if voices else None


def _words(file: Path) -> str:
    text = " ".join(read_text(file).split())
    if not text:
        raise ValueError(f"{file} is empty")
    return text
