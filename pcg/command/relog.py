"""Finished results of a study, told to a logger again: conf/relog.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pcg.config.build import is_built
from pcg.config.validate import ConfigError, problems_of_node
from pcg.config.values import study_folder
from pcg.report import report
from pcg.runner import tracking


def check(config: Mapping[str, Any]) -> list[str]:
    """The studies that are asked for.

    Raises:
        ConfigError: some have no finished run, or there is something wrong with the logger.
    """
    logger = config.get("logger")
    problems = problems_of_node(logger, "logger") if is_built(logger) else ["logger: none to tell of a study"]
    studies: list[str] = []
    try:
        studies = report.check(config)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return studies


def again(config: Mapping[str, Any]) -> None:
    for study in check(config):
        tracking.log_again(study_folder(config["paths"]["outputs"], study), config["logger"])
