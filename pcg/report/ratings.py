"""What listeners of a blind test preferred: their files, the test's key, and exact intervals."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcg.metrics.aggregate import binomial
from pcg.report.blind import KEYS

SAME = "same"
HEADER = ("methods", "ratings", "first better", "alike", "second better", "first of those that differ, %")


class RatingsError(ValueError):
    """A file of ratings, or a test's key, cannot be read; the message names it."""


@dataclass(frozen=True)
class Listener:
    """One listener's answers.

    Attributes:
        session: tells two listeners of one name apart.
        choices: by trial, the clip that was better, 0 or 1, or ``same``.
    """

    test: str
    session: str
    name: str
    choices: Mapping[str, int | str]


@dataclass(frozen=True)
class Preference:
    """How often one of two methods was preferred."""

    methods: tuple[str, str]
    first: int
    alike: int
    second: int

    @property
    def share(self) -> tuple[float, tuple[float, float]] | None:
        """Of the ratings that prefer either, those that prefer the first, with the exact binomial interval."""
        decided = self.first + self.second
        return (self.first / decided, binomial(self.first, decided)) if decided else None

    @property
    def cells(self) -> list[str]:
        shown = "-"
        if self.share is not None:
            value, (low, high) = self.share
            shown = f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
        counts = (self.first + self.alike + self.second, self.first, self.alike, self.second)
        return [" / ".join(self.methods), *map(str, counts), shown]


def read(path: Path) -> Listener:
    """A file that the page saved.

    Raises:
        RatingsError: it is not there, or is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RatingsError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise RatingsError(f"{path}: no JSON; a file of ratings is what the blind page's button saves") from error
    try:
        if found["kind"] != "pcg ratings" or found["version"] != 1:
            raise KeyError("kind")
        choices = {trial: rating["choice"] for trial, rating in found["ratings"].items()}
        listener = Listener(str(found["test"]), str(found["session"]), str(found["listener"]), choices)
    except (KeyError, TypeError, AttributeError) as error:
        raise RatingsError(f"{path}: no file of ratings of this version ({error} is missing or wrong)") from error
    wrong = [trial for trial, choice in choices.items() if choice not in (0, 1, SAME) or isinstance(choice, bool)]
    if wrong:
        raise RatingsError(f"{path}: the choice of {wrong[0]} is {choices[wrong[0]]!r}; 0, 1 and {SAME!r} are")
    return listener


def read_all(paths: Sequence[Path]) -> list[Listener]:
    """Every listener once: of a session that saved twice, the file with more ratings.

    Raises:
        RatingsError: as ``read``; or the files are of several tests.
    """
    sessions: dict[str, Listener] = {}
    for listener in map(read, paths):
        before = sessions.get(listener.session)
        if before is None or len(before.choices) <= len(listener.choices):
            sessions[listener.session] = listener
    tests = {listener.test for listener in sessions.values()}
    if len(tests) != 1:
        raise RatingsError(f"these files are of several tests: {', '.join(sorted(tests))}; read one test at a time")
    return list(sessions.values())


def key_of(test: str, outputs: Path) -> dict[str, Any]:
    """Who was who in a test: what ``blind.write`` left in a study's report folder.

    Raises:
        RatingsError: no study here has it.
    """
    found = sorted(outputs.glob(f"*/{KEYS}/{test}.json")) + sorted(outputs.glob(f"*/report/{KEYS}/{test}.json"))
    if not found:
        raise RatingsError(
            f"no {outputs}/STUDY/report/{KEYS}/{test}.json: the test's key lies where `pcg report blind=true` was run; "
            "start the command there, or say outputs=FOLDER"
        )
    key: dict[str, Any] = json.loads(found[0].read_text(encoding="utf-8"))
    return key


def preferences(listeners: Sequence[Listener], key: Mapping[str, Any]) -> list[Preference]:
    """Of every two methods that were compared.

    Raises:
        RatingsError: a trial is not in the test.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for listener in listeners:
        for trial, choice in listener.choices.items():
            if trial not in key["trials"]:
                raise RatingsError(f"{listener.name or listener.session}: trial {trial} is not in test {key['test']}")
            methods = key["trials"][trial]["methods"]
            two = (min(methods), max(methods))
            place = 1 if choice == SAME else 0 if methods[int(choice)] == two[0] else 2
            counts.setdefault(two, [0, 0, 0])[place] += 1
    return [Preference(two, *counts[two]) for two in sorted(counts)]


def tables(listeners: Sequence[Listener], key: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows: of all listeners together, then of each."""
    together = [(f"{len(listeners)} listener{'s' * (len(listeners) > 1)}", listeners)]
    each = [(name, [listener]) for name, listener in zip(_names(listeners), listeners, strict=True)]
    groups = together + (each if len(listeners) > 1 else [])
    return [(title, [found.cells for found in preferences(own, key)]) for title, own in groups]


def _names(listeners: Sequence[Listener]) -> list[str]:
    """Names, numbered where two listeners share one or have none."""
    plain = [listener.name or "no name" for listener in listeners]
    numbers = {name: itertools.count(1) for name in plain}
    return [f"{name} ({next(numbers[name])})" if plain.count(name) > 1 else name for name in plain]
