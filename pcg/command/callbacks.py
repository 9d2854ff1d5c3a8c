"""What happens around a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pcg.command import status
from pcg.config.values import study_folder
from pcg.report import report
from pcg.results import store

gave_up: list[str] = []  # what failed in this process, in a folder of its own or before it had one


class StudyReport(Callback):
    """At the end of a sweep: the table and the plots of its study. Ends the program with status 1 if a run of the sweep
    failed; what failed in the study before does not count.

    Where nothing was to be run, no more than what was asked for: ``status=true``, ``dry=true``.
    """

    def __init__(self) -> None:
        self._before: dict[Path, tuple[int, int]] = {}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        gave_up.clear()
        self._before = _failed(study_folder(config.paths.outputs, config.study))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.status:
            status.show_asked()
        if config.status or config.dry:
            return
        folder = study_folder(config.paths.outputs, config.study)
        try:
            if store.read_study(folder):
                report.show(folder)
        except Exception as error:  # Hydra would warn, and end with status 0
            gave_up.append(f"{type(error).__name__}: {error}")
            print(f"The report failed: {gave_up[-1]}", file=sys.stderr)
        failed = [path for path, written in _failed(folder).items() if self._before.get(path) != written]
        for path in failed:
            reason = path.read_text(encoding="utf-8").strip()
            print(f"\nfailed: {path.parent}\n{reason}", file=sys.stderr)
        if failed or gave_up:
            sys.exit(1)


def _failed(study: Path) -> dict[Path, tuple[int, int]]:
    """The runs that were given up, with what tells one writing of the note from another, whichever machine wrote it."""
    notes = {path: path.stat() for path in sorted(study.glob(f"*/{store.FAILED}"))}
    return {path: (note.st_mtime_ns, note.st_ino) for path, note in notes.items()}
