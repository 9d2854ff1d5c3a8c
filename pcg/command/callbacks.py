"""What happens around a sweep."""

from __future__ import annotations

import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pcg.command import status
from pcg.config.values import study_folder
from pcg.results import store

gave_up: list[str] = []  # what failed in this process, in a folder of its own or before it had one
_PROCESS = uuid.uuid4().hex


class StudyReport(Callback):
    """At the end of a sweep: the table and the plots of its study. Ends the program with status 1 if a run of the sweep
    failed; what failed in the study before does not count.

    Launchers take it along to their processes, from which what failed comes back in files beside the runs. Where
    nothing was to be run, no more than what was asked for: ``status=true``, ``dry=true``.
    """

    def __init__(self) -> None:
        self._before: dict[Path, tuple[int, int]] = {}
        self._process = _PROCESS
        self._notes: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        gave_up.clear()
        folder = study_folder(config.paths.outputs, config.study)
        self._before = _failed(folder)
        self._notes = folder / f".gave-up-{uuid.uuid4().hex}"

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if gave_up and self._notes and self._process != _PROCESS:
            self._notes.mkdir(parents=True, exist_ok=True)
            (self._notes / uuid.uuid4().hex).write_text("\n".join(gave_up), encoding="utf-8")
            gave_up.clear()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.status:
            status.show_asked()
        if config.status or config.dry:
            return
        folder = study_folder(config.paths.outputs, config.study)
        if self._notes:
            gave_up.extend(note.read_text(encoding="utf-8") for note in sorted(self._notes.glob("*")))
            shutil.rmtree(self._notes, ignore_errors=True)
        shown = _show_report(folder)
        if shown:
            _tell_logger(folder, config)
        failed = [path for path, written in _failed(folder).items() if self._before.get(path) != written]
        reasons = [path.read_text(encoding="utf-8").strip() for path in failed]
        for path, reason in zip(failed, reasons, strict=True):
            print(f"\nfailed: {path.parent}\n{reason}", file=sys.stderr)
        for reason in gave_up:
            if not any(reason in told for told in reasons):
                print(f"\nfailed: {reason}", file=sys.stderr)
        if failed or gave_up or not shown:
            sys.exit(1)


def _show_report(folder: Path) -> bool:
    """Whether it could be made; where it could not Hydra would warn, and end with status 0."""
    from pcg.report import report  # with matplotlib a fifth of all imports, which every other start does without

    try:
        if store.read_study(folder):
            report.show(folder)
    except Exception as error:
        print(f"The report failed: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def _tell_logger(folder: Path, config: DictConfig) -> None:
    """A logger that fails says so, and costs nothing else."""
    from pcg.report import tracked

    logger = OmegaConf.to_container(config.logger, resolve=True) if config.get("logger") else None
    tracked.log_study(folder, logger if isinstance(logger, dict) else None)  # type: ignore[arg-type]


def _failed(study: Path) -> dict[Path, tuple[int, int]]:
    """The runs that were given up, with what tells one writing of the note from another, whichever machine wrote it."""
    notes = {path: path.stat() for path in sorted(study.glob(f"*/{store.FAILED}"))}
    return {path: (note.st_mtime_ns, note.st_ino) for path, note in notes.items()}
