"""A run's figures so far, batch by batch: for the progress bar, and for a logger with each utterance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pcg.results.timing import clock_of, decode_seconds, timing_of
from pcg.types import Figure

Record = Mapping[str, Any]  # of a batch: ``pcg.runner.batch``
Sums = dict[str, float]


class SoFar:
    """Sums over the batches that a run has on disk, and the figures that follow from them.

    A batch that was decoded again counts once. When all is decoded the figures are those of ``result.json``.

    Args:
        utterances: how many the run will have.
        declared: the figures of its metrics.
    """

    def __init__(self, utterances: int, declared: Mapping[str, Figure]) -> None:
        self.utterances, self._declared = utterances, declared
        self._of_batch: dict[int, Sums] = {}
        self._sums: Sums = defaultdict(float)
        self._recorded = 0

    def add(self, line: Record) -> int:
        """Add the next record of the run.

        Returns:
            How many utterances were recorded before it: the same at every start of the run.
        """
        sums = self._sums_of(line)
        for key, value in self._of_batch.get(line["batch"], {}).items():
            self._sums[key] -= value
        for key, value in sums.items():
            self._sums[key] += value
        self._of_batch[line["batch"]] = sums
        self._recorded += len(line["rows"])
        return self._recorded - len(line["rows"])

    def figures(self) -> dict[str, float]:
        """By name each figure that can be given so far; docs/wandb.md says what each is."""
        sums = self._sums
        done = sums["utterances"] + sums["failures"]
        alone = _over(sums["alone_seconds"], sums["alone_tokens"])
        own = _over(sums["own_seconds"], sums["own_tokens"])
        figures = {
            "alpha": _over(sums["accepted"], sums["tested"]),
            "tau": _over(sums["emitted"], sums["target_passes"]),
            "tokens_per_second": _over(sums["tokens"], sums["decode_seconds"]),
            "tokens_per_second_whole": _over(sums["tokens"], sums["whole_seconds"]),
            "speedup": alone / own if alone and own else None,
            **{name: _over(sums[f"{name} top"], sums[f"{name} bottom"]) for name in self._declared},
            "failures": sums["failures"],
            "done": done / self.utterances,
            "seconds_left": sums["wall"] * (self.utterances - done) / done if done else None,
        }
        return {name: value for name, value in figures.items() if value is not None}

    def _sums_of(self, line: Record) -> Sums:
        good = [row for row in line["rows"] if row["error"] is None]
        sums: Sums = defaultdict(float)
        sums |= {"utterances": len(good), "failures": len(line["rows"]) - len(good), "wall": line["wall"]}
        for row in good:
            for key in ("accepted", "tested", "emitted", "target_passes"):
                sums[key] += row["counts"][key]
            for name, figure in self._declared.items():
                top, bottom = figure.columns
                value = row["scores"].get(top)
                if value is not None:
                    sums[f"{name} top"] += value
                    sums[f"{name} bottom"] += 1 if bottom is None else row["scores"][bottom]
        if line["seconds"]:
            sums["tokens"] += line["tokens"]
            sums["whole_seconds"] += sum(line["seconds"].values())
            if "prefill" in line["seconds"]:  # an engine does not time it apart
                sums["decode_seconds"] += decode_seconds(line["seconds"])
        if line["seconds"] and line["baseline_seconds"]:
            for name, side in (("own", ""), ("alone", "baseline_")):
                sums[f"{name}_seconds"], sums[f"{name}_tokens"] = timing_of(line, side, clock_of([line]))
        return sums


def _over(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


class LiveView:
    """A progress bar over utterances with alpha, tau and tokens/s so far; it disappears when the run ends."""

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
        """Show the figures so far."""
        figures = self._so_far.figures()
        speed = figures.get("tokens_per_second", figures.get("tokens_per_second_whole"))
        shown = [f"{name} {figures[name]:.{digits}f}" for name, digits in (("alpha", 3), ("tau", 2)) if name in figures]
        shown += [f"{speed:.0f} {self._unit}"] if speed else []
        done = round(figures["done"] * self._so_far.utterances)
        self._progress.update(self._task, completed=done, figures="  ".join(shown))
