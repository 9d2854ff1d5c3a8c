"""What the listeners of a blind test preferred, with exact intervals, from the files that they saved."""

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
    """A file of ratings, or the key of a test, cannot be read; the message names it."""


@dataclass(frozen=True)
class Listener:
    """One listener's answers.

    Attributes:
        session: unique to a listener, also where two have the same name.
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
        """Share of the ratings with a preference that prefer the first, with the exact binomial interval."""
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
    """The ratings in a file that the page saved.

    Raises:
        RatingsError: the file is missing, or is not such a file.
    """
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RatingsError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise RatingsError(f"{path}: not JSON; give a file that the button of the blind page saved") from error
    try:
        if saved["kind"] != "pcg ratings" or saved["version"] != 1:
            raise KeyError("kind")
        choices = {trial: rating["choice"] for trial, rating in saved["ratings"].items()}
        listener = Listener(str(saved["test"]), str(saved["session"]), str(saved["listener"]), choices)
    except (KeyError, TypeError, AttributeError) as error:
        raise RatingsError(
            f"{path}: not a file of ratings that this version reads ({error} is missing or wrong)"
        ) from error
    wrong = [trial for trial, choice in choices.items() if choice not in (0, 1, SAME) or isinstance(choice, bool)]
    if wrong:
        raise RatingsError(f"{path}: trial {wrong[0]} has choice={choices[wrong[0]]!r}; allowed: 0, 1, {SAME!r}")
    return listener


def read_all(paths: Sequence[Path]) -> list[Listener]:
    """Each listener once; if a session was saved twice, the file with more ratings counts.

    Raises:
        RatingsError: as ``read``; or the files belong to several tests.
    """
    sessions: dict[str, Listener] = {}
    for listener in map(read, paths):
        before = sessions.get(listener.session)
        if before is None or len(before.choices) <= len(listener.choices):
            sessions[listener.session] = listener
    tests = {listener.test for listener in sessions.values()}
    if len(tests) != 1:
        raise RatingsError(f"the files belong to several tests: {', '.join(sorted(tests))}; give the files of one test")
    return list(sessions.values())


def key_of(test: str, outputs: Path) -> dict[str, Any]:
    """The key of a test, as ``blind.write`` left it in a study's report folder.

    Raises:
        RatingsError: no study under ``outputs`` has it.
    """
    files = sorted(outputs.glob(f"*/{KEYS}/{test}.json")) + sorted(outputs.glob(f"*/report/{KEYS}/{test}.json"))
    if not files:
        raise RatingsError(
            f"no {outputs}/STUDY/report/{KEYS}/{test}.json: the key lies where `pcg report blind=true` was run; "
            "run this command there, or add outputs=FOLDER"
        )
    key: dict[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
    return key


def preferences(listeners: Sequence[Listener], key: Mapping[str, Any]) -> list[Preference]:
    """The preferences between every two methods that were compared.

    Raises:
        RatingsError: a trial is not in the test.
    """
    counts: dict[tuple[str, str], list[int]] = {}
    for listener in listeners:
        for trial, choice in listener.choices.items():
            if trial not in key["trials"]:
                raise RatingsError(f"{listener.name or listener.session}: test {key['test']} has no trial {trial}")
            methods = key["trials"][trial]["methods"]
            pair = (min(methods), max(methods))
            answer = 1 if choice == SAME else 0 if methods[int(choice)] == pair[0] else 2
            counts.setdefault(pair, [0, 0, 0])[answer] += 1
    return [Preference(pair, *counts[pair]) for pair in sorted(counts)]


def preference_tables(listeners: Sequence[Listener], key: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Title and rows: of all listeners together, then of each if there are several."""
    titled = [(f"{len(listeners)} listener{'s' * (len(listeners) > 1)}", listeners)]
    if len(listeners) > 1:
        titled += [(name, [listener]) for name, listener in zip(_distinct_names(listeners), listeners, strict=True)]
    return [(title, [preference.cells for preference in preferences(group, key)]) for title, group in titled]


def _distinct_names(listeners: Sequence[Listener]) -> list[str]:
    """The listeners' names, numbered where two share one or have none."""
    plain = [listener.name or "no name" for listener in listeners]
    numbers = {name: itertools.count(1) for name in plain}
    return [f"{name} ({next(numbers[name])})" if plain.count(name) > 1 else name for name in plain]
