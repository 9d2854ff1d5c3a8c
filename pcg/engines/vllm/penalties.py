"""What a request's penalties cost, told once by whichever model runner meets them."""

from __future__ import annotations

import logging

log = logging.getLogger("vllm.pcg")


class PenaltyWarning:
    """Warns at the first request that has penalties. One a sampler."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, asked: bool) -> None:
        """``asked``: whether a request of this step has penalties."""
        if asked and not self._told:
            self._told = True
            log.warning(
                "pcg: a request asks for penalties. vLLM's draft does not see them: what is emitted keeps its law, but "
                "fewer drafts are kept."
            )
