"""A warning about penalties of a request, for both model runners."""

from __future__ import annotations

import logging

log = logging.getLogger("vllm.pcg")


class PenaltyWarning:
    """Warns once, at the first step in which a request has penalties."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self, has_penalties: bool) -> None:
        if has_penalties and not self._done:
            self._done = True
            log.warning(
                "pcg: a request has penalties, which vLLM does not apply to the draft: the law of the output is "
                "unchanged, but fewer draft tokens are kept."
            )
