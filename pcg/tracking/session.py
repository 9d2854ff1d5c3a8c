"""A session with W&B: it begins with the run, gets a step an utterance, and ends with the result.

Nothing here waits for the network while a run decodes. Online ``wandb.init`` waits for the service, so it runs in a
thread, and actions are held back until it returns. If the service has not answered in time, W&B's run becomes an
offline one, which ``wandb sync`` sends later.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wandb

ANSWER = 30.0  # seconds within which the service must have answered
_GIVING_UP = 10.0  # seconds at most in which an online run becomes an offline one
log = logging.getLogger(__name__)
_PLACES = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_ARTIFACT_DIR")
_silent: set[str] = set()  # services that did not answer this process, which does not wait for them again


class Session:
    """One run of W&B.

    Args:
        init: arguments of ``wandb.init`` but mode and settings.
        online: else the run is only written to files.
        folder: of the run; everything that W&B writes is under it.
        timeout: seconds that the service has to take the rest at the end; to answer at first it has ``ANSWER`` at most.
        live: whether to sample the machine's use (GPU, memory), which is meaningful only while the run decodes.
    """

    def __init__(self, init: Mapping[str, Any], online: bool, folder: Path, timeout: float, live: bool) -> None:
        self._init, self._folder, self._timeout, self._live = dict(init), folder, timeout, live
        self._run: Any = None
        self._error: Exception | None = None
        self._held_back: list[Callable[[Any], None]] = []
        self._deadline = time.monotonic() + min(timeout, ANSWER)
        self._waiting: threading.Thread | None = None
        self._environment = _set({name: str(folder / "wandb" / name.lower()) for name in _PLACES})
        try:
            self._start(online)
        except BaseException:
            _set(self._environment)
            raise

    def _start(self, online: bool) -> None:
        service = os.environ.get("WANDB_BASE_URL", "")
        if not online:
            self._start_offline()
        elif service in _silent:
            self._error = TimeoutError("W&B did not answer an earlier run of this process")
            self._start_offline()
        else:
            self._waiting = threading.Thread(target=self._start_online, args=(service,), daemon=True, name="wandb-init")
            self._waiting.start()

    def tell(self, action: Callable[[Any], None]) -> None:
        """Do something with W&B's run, now or once it has begun. Where that fails W&B's run is ended."""
        self._held_back.append(action)
        if self._run is not None:
            self._catch_up()

    def end(self, exit_code: int = 0) -> None:
        """End W&B's run.

        Raises:
            Exception: W&B has not taken everything; the rest is under the run's folder.
        """
        try:
            self._await()
        except BaseException:
            _set(self._environment)
            raise
        self._catch_up()
        self._close(exit_code)
        if self._error is not None:
            raise self._error

    def _catch_up(self) -> None:
        try:
            while self._held_back:
                self._held_back.pop(0)(self._run)
        except BaseException:
            self._close(exit_code=1)
            raise

    def _close(self, exit_code: int) -> None:
        try:
            self._run.finish(exit_code=exit_code)
        finally:
            _set(self._environment)

    def _await(self) -> None:
        """Wait until the service has answered, or the run has become an offline one."""
        if self._waiting is not None:
            self._waiting.join(max(0.0, self._deadline - time.monotonic()) + _GIVING_UP)
        if self._run is None:
            raise self._error or TimeoutError(f"W&B did not answer in {min(self._timeout, ANSWER):g} s")
        if self._error is not None:
            log.warning("W&B did not take the run; `wandb sync %s` sends it", Path(self._run.dir).parent)

    def _start_online(self, service: str) -> None:
        try:
            self._run = self._started("online")
        except Exception as error:
            self._error = error
            _silent.add(service)
            wandb.teardown()  # else W&B's process would still have the run's id
            self._start_offline()

    def _start_offline(self) -> None:
        """Begin offline. Files of an earlier offline start are removed, since all of the run is logged again."""
        for earlier in self._folder.glob(f"wandb/offline-run-*-{self._init['id']}"):
            if not any(earlier.glob("*.synced")):
                shutil.rmtree(earlier, ignore_errors=True)
        self._run = self._started("offline")

    def _started(self, mode: Any) -> Any:
        return wandb.init(
            **self._init, mode=mode, dir=str(self._folder), settings=settings(self._timeout, self._live),
            resume="allow" if mode == "online" and self._live else None,
        )  # fmt: skip


def settings(timeout: float, live: bool = False) -> wandb.Settings:
    """Settings without output, and with a limit to every wait."""
    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        x_disable_meta=True,  # command line, paths and name of the machine; the config says which device
        x_disable_stats=not live,
        login_timeout=min(timeout, ANSWER),
        init_timeout=min(timeout, ANSWER),
        finish_timeout=timeout,
        finish_timeout_raises=True,
    )


def _set(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Set variables of the environment; returns what they were."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return before
