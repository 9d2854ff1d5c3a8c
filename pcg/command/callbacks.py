"""What happens around a sweep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pcg.command import status
from pcg.report import report
from pcg.results import store


class StudyReport(Callback):
    """At the end of a sweep: the table and the plots of its study. Ends the program with status 1 if a run failed.

    Where nothing was to be run, no more than what was asked for: ``status=true``, ``dry=true``.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if config.status:
            status.show_asked()
        if config.status or config.dry:
            return
        folder = Path(config.paths.outputs) / config.study
        if store.read_study(folder):
            report.show(folder)
        failed = sorted(folder.glob(f"*/{store.FAILED}"))
        for path in failed:
            print(f"\nfailed: {path.parent}\n{path.read_text().strip()}", file=sys.stderr)
        if failed:
            sys.exit(1)
