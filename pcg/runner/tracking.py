"""Telling a logger of results, which are on disk before: one that fails is reported, and costs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.config.build import build, is_built
from pcg.config.settings import Node
from pcg.results import store
from pcg.types import Result

log = logging.getLogger("pcg")


def tell(logger: Node | None, result: Result, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the logger took the result; true without one."""
    if not is_built(logger):
        return True
    try:
        build(logger).log(result, rows, Path(result.folder))
    except Exception as error:
        log.warning(
            "the logger failed (%s: %s). The result is safe in %s; log it again with "
            "`pcg relog study=%s`",
            type(error).__name__, error, result.folder, result.values["study"],
        )  # fmt: skip
        log.debug("the logger failed", exc_info=True)
        return False
    return True


def log_again(study_folder: Path, logger: Node | None) -> None:
    """Tell a logger of every finished run of a study.

    Raises:
        ValueError: there is none.
        RuntimeError: it did not take some of them; why has been logged.
    """
    results = store.read_study(study_folder)
    if not results:
        raise ValueError(f"{study_folder}: no finished runs")
    lost = 0
    for result in results:
        if tell(logger, result, store.read_utterances(Path(result.folder))):
            log.info("logged %s", result.folder)
        else:
            lost += 1
    if lost:
        raise RuntimeError(f"{lost} of {len(results)} runs could not be logged")
