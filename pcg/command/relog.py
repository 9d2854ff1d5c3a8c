"""``pcg relog``: sends finished results of a study to a logger again (conf/relog.yaml)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcg.config.build import is_built
from pcg.config.validate import problems_of_node, refuse
from pcg.config.values import study_folder
from pcg.report import report, tracked
from pcg.runner import tracking


def check(config: Mapping[str, Any]) -> list[str]:
    """The studies of the config.

    Raises:
        ConfigError: a study has no finished run, or the logger's config is wrong.
    """
    logger = config.get("logger")
    missing = ["logger is required: pcg relog logger=wandb"]
    problems = problems_of_node(logger, "logger") if is_built(logger) else missing
    studies: list[str] = []
    refuse(problems, lambda: studies.extend(report.check(config)))
    return studies


def again(config: Mapping[str, Any]) -> None:
    """Log every run and the report of each study.

    Raises:
        RuntimeError: the logger did not take all of it; each reason has been logged.
    """
    for study in check(config):
        folder = study_folder(config["paths"]["outputs"], study)
        tracking.log_again(folder, config["logger"])
        report.show(folder)
        if not tracked.log_study(folder, config["logger"]):
            raise RuntimeError(f"study {study} could not be logged")
