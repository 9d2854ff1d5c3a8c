"""A run's figures so far, batch by batch: what the progress bar shows and W&B is told with each utterance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pcg.results.timing import clock_of, decode_seconds, timing_of
from pcg.types import Figure

Record = Mapping[str, Any]  # of a batch: ``pcg.runner.batch``
Sums = dict[str, float]


class SoFar:
    """Sums over the batches that a run has, and the figures that they come to. A batch decoded anew counts once.

    At the end the figures are those of ``result.json``.

    Args:
        utterances: how many the run will have.
        declared: the figures of its metrics.
    """

    def __init__(self, utterances: int, declared: Mapping[str, Figure] | None = None) -> None:
        self.utterances, self._declared = utterances, declared or {}
        self._of_batch: dict[int, Sums] = {}
        self._sums: Sums = defaultdict(float)
        self._recorded = 0

    def add(self, line: Record) -> int:
        """Take the next record of the run in; the last one of a batch counts.

        Returns:
            How many utterances were recorded before it: the same at every start of the run.
        """
        for sums, sign in ((self._of_batch.get(line["batch"], {}), -1), (new := self._sums_of(line), 1)):
            for key, value in sums.items():
                self._sums[key] += sign * value
        self._of_batch[line["batch"]] = new
        self._recorded += len(line["rows"])
        return self._recorded - len(line["rows"])

    def figures(self) -> dict[str, float]:
        """By name each figure that there is so far; DESIGN says what they are.

        ``done`` is the share of the utterances, ``seconds_left`` what the others take if they take as long.
        """
        sums = self._sums
        done = sums["utterances"] + sums["failures"]
        alone = _over(sums["alone_seconds"], sums["alone_tokens"])
        own = _over(sums["own_seconds"], sums["own_tokens"])
        found = {
            "alpha": _over(sums["accepted"], sums["tested"]),
            "tau": _over(sums["emitted"], sums["target_passes"]),
            "tokens_per_second": _over(sums["tokens"], sums["decode_seconds"]),
            "tokens_per_second_whole": _over(sums["tokens"], sums["whole_seconds"]),
            "speedup": alone / own if alone and own else None,
            **{name: _over(sums[f"{name} top"], sums[f"{name} bottom"]) for name in self._declared},
            "failures": sums["failures"],
            "done": done / self.utterances if self.utterances else 1.0,
            "seconds_left": sums["wall"] * (self.utterances - done) / done if done else None,
        }
        return {name: value for name, value in found.items() if value is not None}

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
            if "prefill" in line["seconds"]:  # of an engine decoding is not told apart
                sums["decode_seconds"] += decode_seconds(line["seconds"])
        if line["seconds"] and line["baseline_seconds"]:
            for name, side in (("own", ""), ("alone", "baseline_")):
                sums[f"{name}_seconds"], sums[f"{name}_tokens"] = timing_of(line, side, clock_of([line]))
        return sums


def _over(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None
