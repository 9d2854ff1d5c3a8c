"""The live view of a run: how far, how much is kept, how fast."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcg.runner.so_far import SoFar


class LiveView:
    """A progress bar over utterances with alpha, tau and tokens/s so far; it goes when the run ends."""

    def __init__(self, label: str, so_far: SoFar, devices: int = 1) -> None:
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
        self._so_far = so_far
        self._task = self._progress.add_task(label, total=so_far.utterances, figures="")
        self._unit = "tokens/s" if devices == 1 else "tokens/s a device"

    def __enter__(self) -> LiveView:
        self.show()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self) -> None:
        """Show what there is so far."""
        known = self._so_far.figures()
        speed = known.get("tokens_per_second", known.get("tokens_per_second_whole"))
        shown = [f"{name} {known[name]:.{digits}f}" for name, digits in (("alpha", 3), ("tau", 2)) if name in known]
        shown += [f"{speed:.0f} {self._unit}"] if speed else []
        done = round(known["done"] * self._so_far.utterances)
        self._progress.update(self._task, completed=done, figures="  ".join(shown))
