"""The tiny parts in worker processes, and a model that tells who loads it and can be told to misbehave."""

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

from pcg.runner import worker
from pcg.types import Utterance
from tests.runner import parts_for_tests

_work = worker.work


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
        self._journal, self._deadly, self._kills, self._delay = Path(journal), deadly, kills, delay
        self.vocab_size = vocab_size
        if fails:
            raise FileNotFoundError("no weights there")
        self._note(f"load {os.getpid()}")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    def prompt(self, utterance: Utterance, prompt_tokens: Any) -> Any:
        time.sleep(self._delay)
        if utterance.id in self._deadly and notes(self._journal).count(f"kill {utterance.id}") < self._kills:
            self._note(f"kill {utterance.id}")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().prompt(utterance, prompt_tokens)

    def _note(self, line: str) -> None:
        with self._journal.open("a") as file:
            file.write(line + "\n")


def notes(journal: Path) -> list[str]:
    return journal.read_text().splitlines() if journal.exists() else []


def register() -> None:
    """Make the tiny parts ``pcg.tiny.*`` in this process, and in the workers that it starts."""
    parts_for_tests.Watched = Watched  # type: ignore[attr-defined]
    Watched.__module__ = "pcg.tiny"  # a config may only name what lies inside pcg
    for _, part in inspect.getmembers(parts_for_tests, inspect.isclass):
        if part.__module__ == parts_for_tests.__name__:
            part.__module__ = "pcg.tiny"
    sys.modules["pcg.tiny"] = parts_for_tests
    worker.work = work


def work(*arguments: Any) -> None:
    """What a worker process runs in place of ``pcg.runner.worker.work``."""
    register()
    _work(*arguments)
