"""Gives a study's report to a logger that takes studies; in W&B it is one run, the same again when the study grows."""

from __future__ import annotations

import base64
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcg.config.build import build, is_built
from pcg.config.settings import Node
from pcg.report.names import in_order, labels
from pcg.report.seeds import Method, methods
from pcg.results import store
from pcg.results.figures import measured

PAGE = 25_000_000  # bytes of audio that are put into the page, from the first utterance on
log = logging.getLogger("pcg")


def log_study(study_folder: Path, logger: Node | None) -> bool:
    """Log a study whose report is written; returns False if the logger failed. A logger without studies is skipped."""
    built: Any = build(logger) if is_built(logger) else None
    if built is None or getattr(built, "disabled", False) or not hasattr(built, "log_study"):
        return True
    results, folder = in_order(store.read_study(study_folder)), study_folder / "report"
    if not results:
        return True
    page = folder / "index.html"
    try:
        built.log_study(
            study_folder.name, folder, results, frontier(methods(results)),
            with_audio(page) if page.exists() and built.audio else None,
        )  # fmt: skip
    except Exception as error:
        log.warning(
            "the logger failed (%s: %s). The report is safe in %s; log it again with `pcg relog study=%s`",
            type(error).__name__, error, folder, study_folder.name,
        )  # fmt: skip
        log.debug("the logger failed", exc_info=True)
        return False
    return True


def frontier(results: Sequence[Method]) -> tuple[list[str], list[list[Any]]] | None:
    """Method, speed-up and the first figure of quality that has a direction; None if either was not measured."""
    figures = {key: figure for key, figure in measured([result.values for result in results]).items() if figure.better}
    if not figures:
        return None
    key, figure = next(iter(figures.items()))
    rows = [
        [label, result.values["speed"]["speedup"], figure.scale * result.values["quality"][key]]
        for label, result in zip(labels(results), results, strict=True)
        if result.values["speed"]["speedup"] is not None and result.values["quality"].get(key) is not None
    ]
    return (["method", "speed-up", figure.heading], rows) if rows else None


def with_audio(page: Path, most: int = PAGE) -> str:
    """The listening page with its clips inside, up to ``most`` bytes of them."""
    left = most

    def embedded(match: re.Match[str]) -> str:
        nonlocal left
        content = (page.parent / match[1]).read_bytes()
        left -= len(content)
        return match[0] if left < 0 else f'"src":"data:audio/wav;base64,{base64.b64encode(content).decode()}"'

    return re.sub(r'"src":"([^"]+)"', embedded, page.read_text(encoding="utf-8"))
