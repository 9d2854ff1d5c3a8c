"""The tiny parts in worker processes; a model and a metric that tell who uses them and can be told to misbehave."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pcg.runner import loading, worker
from pcg.types import Audio, Utterance
from tests.tiny import parts as parts_for_tests

_work = worker.work
DECODES = (parts_for_tests.Bigram, parts_for_tests.Tones)


def _file(journal: str) -> Path:
    """``journal:PATH``: a path by itself would be a file of the model, which has changed when the journal has."""
    return Path(journal.removeprefix("journal:"))


class Watched(parts_for_tests.Bigram):
    """Writes to a journal: ``load PID`` when it is made, ``kill ID`` when an utterance ends its process.

    Args:
        deadly: utterances that end the process with SIGKILL, ``kills`` times each.
        delay: seconds that every utterance takes longer.
        fails: whether it cannot be loaded.
        dies: whether loading it ends the process.
        vocab_size: what it claims to speak.
    """

    def __init__(
        self, device: torch.device, journal: str, seed: int = 0, noise: float = 0.0, deadly: Sequence[str] = (),
        kills: int = 1, delay: float = 0.0, fails: bool = False, dies: bool = False, vocab_size: int = 13,
    ) -> None:  # fmt: skip
        super().__init__(device, seed, noise)
        self._journal, self._deadly, self._kills, self._delay = _file(journal), deadly, kills, delay
        self.vocab_size = vocab_size
        if fails:
            raise FileNotFoundError("no weights there")
        note(self._journal, f"load {os.getpid()}")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def prompt(self, utterance: Utterance, prompt_tokens: Any) -> Any:
        time.sleep(self._delay)
        end_of_process(self._journal, utterance, self._deadly, self._kills)
        return super().prompt(utterance, prompt_tokens)


class Ears(parts_for_tests.Loudness):
    """Writes to a journal: ``scored PID MODELS`` with how many parts for decoding the process holds meanwhile, and
    ``kill ID`` when an utterance ends its process, as ``Watched`` does."""

    def __init__(self, journal: str, deadly: Sequence[str] = (), kills: int = 1) -> None:
        super().__init__()
        self._journal, self._deadly, self._kills = _file(journal), deadly, kills

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, Any]]:
        held = [each for each in loading.kept._objects.values() if isinstance(each, DECODES)]
        note(self._journal, f"scored {os.getpid()} {len(held)}")
        for said in utterances:
            end_of_process(self._journal, said, self._deadly, self._kills)
        return super().score(audio, utterances)


def end_of_process(journal: Path, said: Utterance, deadly: Sequence[str], kills: int) -> None:
    if said.id in deadly and notes(journal).count(f"kill {said.id}") < kills:
        note(journal, f"kill {said.id}")
        os.kill(os.getpid(), signal.SIGKILL)


def note(journal: Path, line: str) -> None:
    with journal.open("a") as file:
        file.write(line + "\n")


def notes(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def register() -> None:
    """Make the tiny parts ``pcg.tiny.*`` in this process, and in the workers that it starts."""
    for watched in (Watched, Ears):
        setattr(parts_for_tests, watched.__name__, watched)
        watched.__module__ = "pcg.tiny"  # a config may only name what lies inside pcg
    for _, part in inspect.getmembers(parts_for_tests, inspect.isclass):
        if part.__module__ == parts_for_tests.__name__:
            part.__module__ = "pcg.tiny"
    sys.modules["pcg.tiny"] = parts_for_tests
    worker.work = work


def work(*arguments: Any) -> None:
    """What a worker process runs in place of ``pcg.runner.worker.work``."""
    register()
    _work(*arguments)
