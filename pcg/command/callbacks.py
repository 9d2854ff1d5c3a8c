"""A Hydra callback around sweeps: the report at the end, and an exit status that says whether a run failed."""

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

gave_up: list[str] = []  # why runs of this process failed, those that had no folder yet among them
_PROCESS = uuid.uuid4().hex


class StudyReport(Callback):
    """Makes the table and the plots of the study when a sweep ends, and ends the program with status 1 if a run failed.

    Runs of the study that failed before this sweep do not count. Launchers send this object to their processes, which
    write their failures into files beside the runs. With ``status=true`` and ``dry=true`` no report is made.
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
        from pcg.report import tracked  # the report's imports are a fifth of all, and other starts do without

        folder = study_folder(config.paths.outputs, config.study)
        if self._notes:
            gave_up.extend(note.read_text(encoding="utf-8") for note in sorted(self._notes.glob("*")))
            shutil.rmtree(self._notes, ignore_errors=True)
        shown = _show_report(folder)
        if shown:
            logger = OmegaConf.to_container(config.logger, resolve=True) if config.get("logger") else None
            tracked.log_study(folder, logger if isinstance(logger, dict) else None)  # type: ignore[arg-type]
        failed = [path for path, written in _failed(folder).items() if self._before.get(path) != written]
        reasons = [path.read_text(encoding="utf-8").strip() for path in failed]
        for path, reason in zip(failed, reasons, strict=True):
            print(f"\nfailed: {path.parent}\n{reason}", file=sys.stderr)
        for reason in gave_up:
            if not any(reason in printed for printed in reasons):
                print(f"\nfailed: {reason}", file=sys.stderr)
        if failed or gave_up or not shown:
            sys.exit(1)


def _show_report(folder: Path) -> bool:
    """Make the report; returns whether that worked. If the error were raised Hydra would only warn and exit with 0."""
    from pcg.report import report

    try:
        if store.read_study(folder):
            report.show(folder)
    except Exception as error:
        print(f"The report failed: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True


def _failed(study: Path) -> dict[Path, tuple[int, int]]:
    """By note of a failed run, its time and inode, which differ whenever the note is written again."""
    notes = {path: path.stat() for path in sorted(study.glob(f"*/{store.FAILED}"))}
    return {path: (note.st_mtime_ns, note.st_ino) for path, note in notes.items()}
