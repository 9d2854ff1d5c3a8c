"""The live view of a run: how far, how much is kept, how fast."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcg.results.timing import decode_seconds


class LiveView:
    """A progress bar over utterances with alpha, tau and tokens/s so far; it goes when the run ends."""

    def __init__(self, label: str, total: int, devices: int = 1) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=total, figures="")
        self._sums = dict.fromkeys(("accepted", "tested", "emitted", "target_passes"), 0)
        self._tokens = self._seconds = 0.0
        self._unit = "tokens/s" if devices == 1 else "tokens/s a device"

    def __enter__(self) -> LiveView:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, record: Mapping[str, Any]) -> None:
        """Show a batch that has just been finished."""
        self.count(record)
        self._progress.update(self._task, advance=len(record["rows"]), figures=self._figures())

    def count(self, record: Mapping[str, Any]) -> None:
        """Take a batch's figures in."""
        for row in record["rows"]:
            for key in self._sums:
                self._sums[key] += row["counts"][key] if row["error"] is None else 0
        if record["seconds"]:
            self._tokens += record["tokens"]
            self._seconds += decode_seconds(record["seconds"])

    def _figures(self) -> str:
        sums = self._sums
        shown = [f"alpha {sums['accepted'] / sums['tested']:.3f}"] if sums["tested"] else []
        shown += [f"tau {sums['emitted'] / sums['target_passes']:.2f}"] if sums["target_passes"] else []
        shown += [f"{self._tokens / self._seconds:.0f} {self._unit}"] if self._seconds else []
        return "  ".join(shown)
