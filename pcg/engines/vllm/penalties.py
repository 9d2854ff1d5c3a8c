"""A warning about penalties of a request, for both model runners."""

from __future__ import annotations

import logging
from functools import cache

log = logging.getLogger("vllm.pcg")


@cache
def warn_of_penalties() -> None:
    """Logs, once in a process, that penalties are not applied to drafts."""
    log.warning(
        "pcg: a request has penalties, which vLLM does not apply to the draft: the law of the output is unchanged, but "
        "fewer draft tokens are kept."
    )
