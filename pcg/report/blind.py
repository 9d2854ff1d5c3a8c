"""A listening test without names: a page that plays pairs of two methods, and the key that names the methods.

The page is one file with its audio inside, which can be sent to listeners; it holds neither names nor paths of methods.
``blind/<test>.json`` is the key, which ``ratings.py`` needs to read the answers: it stays here.
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
        id: a digest, which does not give away the methods.
        methods: names of the first and of the second clip's method.
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
        pairs: how many a listener hears at most.
        wanted: names of methods in the table, which may include ``target alone``; None for all.

    Raises:
        ConfigError: there is no method of that name, or there are not two to compare.
    """
    by_name = {reading.method["name"]: reading for reading in readings(results, labels)}
    chosen = list(by_name) if wanted is None else list(dict.fromkeys(wanted))
    unknown = [
        f"methods={name!r}: no such row in the table{nearest(name, list(by_name))}"
        for name in chosen
        if name not in by_name
    ]
    if unknown or len(chosen) < 2:
        raise ConfigError(unknown or ["methods: give the names of two or more rows of the table that have audio"])
    trials = _trials({name: by_name[name] for name in chosen}, pairs)
    if not trials:
        raise ConfigError(["blind: no two of the methods have different audio of an utterance"])
    test = hashlib.blake2b("".join(trial.id for trial in trials).encode(), digest_size=5).hexdigest()
    key = {
        "test": test,
        "study": results[0].values["study"],
        "trials": {trial.id: {"utterance": trial.utterance, "methods": list(trial.methods)} for trial in trials},
    }
    (folder / KEYS).mkdir(exist_ok=True)
    write_atomically(folder / KEYS / f"{test}.json", json.dumps(key, indent=1, ensure_ascii=False) + "\n")
    shown = [
        {"id": trial.id, "text": trial.text, "clips": [_embedded(clip) for clip in trial.clips]} for trial in trials
    ]
    write_atomically(folder / PAGE, filled("blind", {"test": test, "trials": shown}))
    return folder / PAGE, trials


def _trials(methods: Mapping[str, Reading], pairs: int) -> list[Trial]:
    """Trials in which every two methods are compared equally often, on different utterances while there are some left.

    The draws depend only on the runs, so that a report that is made again has the same test.
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


def _embedded(clip: Path) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(clip.read_bytes()).decode('ascii')}"
