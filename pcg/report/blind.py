"""A listening test without names: a page that plays pairs of two methods, and the key that says who was who.

The page is one file that needs no server and no other file, since its audio is inside it: it can be sent to listeners.
It holds neither names nor paths. What ``ratings.py`` needs to read their answers lies in ``blind/<test>.json``, which
stays.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcg.config.validate import ConfigError, nearest
from pcg.report.page import Reading, filled, readings
from pcg.results.records import write_atomically
from pcg.types import Result

PAGE, KEYS = "blind.html", "blind"


@dataclass(frozen=True)
class Trial:
    """One utterance by two methods.

    Attributes:
        id: tells nothing of what it is.
        methods: of the first and of the second clip.
        clips: the WAV files.
    """

    id: str
    utterance: str
    text: str
    methods: tuple[str, str]
    clips: tuple[Path, Path]


def write(
    results: Sequence[Result], labels: Sequence[str], folder: Path, pairs: int, wanted: Sequence[str] | None = None
) -> tuple[Path, list[Trial]]:
    """Write the page and its key into the study's report folder.

    Args:
        pairs: how many a listener hears, at most.
        wanted: which methods, by their names in the table, ``target alone`` among them; None for all.

    Raises:
        ConfigError: a method is not there, or there are not two to compare.
    """
    found = {reading.method["name"]: reading for reading in readings(results, labels)}
    chosen = list(found) if wanted is None else list(dict.fromkeys(wanted))
    unknown = [
        f"methods={name!r}: no such row in the table{nearest(name, list(found))}"
        for name in chosen
        if name not in found
    ]
    if unknown or len(chosen) < 2:
        raise ConfigError(unknown or ["methods: name two or more rows of the table that have audio"])
    trials = _trials({name: found[name] for name in chosen}, pairs)
    if not trials:
        raise ConfigError(["blind: no utterance was spoken by two of the methods in two ways"])
    test = hashlib.blake2b("".join(trial.id for trial in trials).encode(), digest_size=5).hexdigest()
    key = {
        "test": test,
        "study": results[0].values["study"],
        "trials": {trial.id: {"utterance": trial.utterance, "methods": list(trial.methods)} for trial in trials},
    }
    (folder / KEYS).mkdir(exist_ok=True)
    write_atomically(folder / KEYS / f"{test}.json", json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    shown = [{"id": trial.id, "text": trial.text, "clips": [_inside(clip) for clip in trial.clips]} for trial in trials]
    write_atomically(folder / PAGE, filled("blind", {"test": test, "trials": shown}))
    return folder / PAGE, trials


def _trials(methods: Mapping[str, Reading], pairs: int) -> list[Trial]:
    """Every two methods as often as every other two, each time with another utterance as far as there are some.

    What is drawn depends on the runs alone, so that a report that is made again is the same test.
    """
    rows = {name: {row["utterance"]: row for row in reading.rows} for name, reading in methods.items()}
    seed = " ".join(str(reading.run.name) for reading in methods.values())
    rng = random.Random(seed)
    queues = []
    for two in itertools.combinations(methods, 2):
        shared = [name for name in rows[two[0]] if all(_spoken(rows[method].get(name)) for method in two)]
        rng.shuffle(shared)
        queues.append([(two, name) for name in shared])
    rng.shuffle(queues)
    trials = []
    for two, name in (one for turn in itertools.zip_longest(*queues) for one in turn if one is not None):
        first, second = rng.sample(two, 2)
        clips = (_clip(methods[first], rows[first][name]), _clip(methods[second], rows[second][name]))
        if clips[0].read_bytes() != clips[1].read_bytes():
            hidden = hashlib.blake2b(f"{seed}|{first}|{second}|{name}".encode(), digest_size=6).hexdigest()
            trials.append(Trial(hidden, name, rows[first][name]["text"], (first, second), clips))
        if len(trials) == pairs:
            break
    return trials


def _spoken(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["error"] is None and bool(row["audio"])


def _clip(reading: Reading, row: Mapping[str, Any]) -> Path:
    return reading.run / str(row["audio"])


def _inside(clip: Path) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(clip.read_bytes()).decode('ascii')}"
