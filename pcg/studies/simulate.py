"""A study on paper, scheduled by the code that schedules real ones (docs/scale.md): ``python -m pcg.studies.simulate``.

Workers are made up: a batch takes the time that ``pcg.studies.plan`` says its passes take at best on an H100, times a
margin, and time is a number that jumps to the next end. Everything that a figure rests on is an argument.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from pcg.runner.rescore import TOGETHER
from pcg.runner.schedule import dispatch

UTTERANCES, CONFIGS, MACHINES, DEVICES = 4837, 60, 8, 8


@dataclass(frozen=True)
class Assumed:
    """Seconds, but where another unit is named. Passes are LLaSA-8B's and 1B's on an H100 (dry=true).

    Attributes:
        tau: tokens a round; alpha .6 and gamma 4.
        margin: how much longer a real pass takes than the roofline's.
        fixed: of a batch besides its passes: prompt, prefill, codec, WAV files.
        scoring: of all metrics together, per second of audio.
        load, load_metrics: until a worker has its models, and until it has the metrics'.
        start: of a run in the main process, before and after its batches: imports, dataset, bootstrap, files.
        record: of the main process for each record: what is appended is forced to disk.
        mean_speech, spread: of an utterance, log-normal: LibriTTS test-clean has 8.56 hours in 4,837 utterances.
    """

    gamma: int = 4
    tau: float = 2.31
    draft_pass: float = 0.00067
    target_pass: float = 0.00437
    margin: float = 1.5
    fixed: float = 0.3
    scoring: float = 0.02
    load: float = 60.0
    load_metrics: float = 12.0
    start: float = 30.0
    record: float = 0.01
    mean_speech: float = 6.37
    spread: float = 0.75
    tokens_per_second: int = 50
    max_tokens: int = 1000
    batch_size: int = 1

    @property
    def per_token(self) -> float:
        """Of speculative decoding and, beside it, of the target alone."""
        speculative = (self.gamma * self.draft_pass + self.target_pass) / self.tau
        return self.margin * (speculative + self.target_pass)


class Clock:
    now = 0.0


@dataclass(eq=False)
class MadeUpWorker:
    """A ``pcg.runner.schedule.Worker`` that does nothing, for as long as it is told."""

    clock: Clock
    durations: Sequence[float]
    load: float
    slowness: float = 1.0
    ends: float = 0.0
    worked: float = 0.0
    did: list[int] = field(default_factory=list)

    def give(self, index: int) -> None:
        duration = self.slowness * self.durations[index]
        self.ends = self.clock.now + duration + (0.0 if self.did else self.load)
        self.worked += duration
        self.did.append(index)

    def receive(self) -> int:
        return self.did[-1]

    def stop(self) -> None:
        raise AssertionError("no batch was left behind")


@dataclass(frozen=True)
class Run:
    """What came of a simulated run: how long it took, and how much of that each device decoded and scored."""

    seconds: float
    worked: Sequence[float]
    did: Sequence[Sequence[int]]

    @property
    def use(self) -> float:
        """The part of the devices' time in which they decoded or scored."""
        return sum(self.worked) / (len(self.worked) * self.seconds)


def lengths(assumed: Assumed, count: int = UTTERANCES, seed: int = 0) -> list[float]:
    """Seconds of speech of each utterance, cut at ``max_tokens``."""
    draws, longest = random.Random(seed), assumed.max_tokens / assumed.tokens_per_second
    middle = math.log(assumed.mean_speech) - assumed.spread**2 / 2
    return [min(draws.lognormvariate(middle, assumed.spread), longest) for _ in range(count)]


def durations(assumed: Assumed, speech: Sequence[float]) -> list[float]:
    """Of each batch: its longest utterance decides the decoding, all of them the rest."""
    size = assumed.batch_size
    batches = [speech[start : start + size] for start in range(0, len(speech), size)]
    return [
        max(batch) * assumed.tokens_per_second * assumed.per_token
        + len(batch) * assumed.fixed
        + 2 * sum(batch) * assumed.scoring  # the target alone is scored too
        for batch in batches
    ]


def run(
    batches: Sequence[float], devices: int = DEVICES, load: float = 0.0, record: float = 0.0,
    slowness: Sequence[float] = (), order: Sequence[int] | None = None,
) -> Run:  # fmt: skip
    """One run, its batches handed out by ``pcg.runner.schedule.dispatch``.

    Args:
        load: of each worker, before its first batch.
        slowness: by device, how many times longer it takes.
        order: of the batches; the dataset's if None.
    """
    clock = Clock()
    workers = [MadeUpWorker(clock, batches, load, slow) for slow in slowness or [1.0] * devices]

    def wait(busy: Collection[MadeUpWorker]) -> list[MadeUpWorker]:
        clock.now = max(clock.now, min(worker.ends for worker in busy))
        return [worker for worker in busy if worker.ends <= clock.now]

    for _ in dispatch(workers, order or range(len(batches)), lambda: False, wait):
        clock.now += record  # the main process writes, and hands out nothing meanwhile
    return Run(clock.now, [worker.worked for worker in workers], [worker.did for worker in workers])


def run_then_score(assumed: Assumed, speech: Sequence[float], load: float = 0.0, load_metrics: float = 0.0) -> Run:
    """One run that is scored when all is decoded, by the same devices."""
    together = [speech[start : start + TOGETHER] for start in range(0, len(speech), TOGETHER)]
    scoring = [2 * sum(each) * assumed.scoring for each in together]
    decoded = run(durations(replace(assumed, scoring=0.0), speech), load=load, record=assumed.record)
    scored = run(scoring, load=load_metrics, record=TOGETHER * assumed.record)
    worked = [sum(each) for each in zip(decoded.worked, scored.worked, strict=True)]
    return Run(decoded.seconds + scored.seconds, worked, decoded.did)


def study(seconds: Sequence[float], machines: int = MACHINES) -> float:
    """How long runs take on several machines, the next to whichever is free: what an array job of SLURM does."""
    free = [0.0] * machines
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def figures(name: str, assumed: Assumed) -> list[str]:
    """Lines of docs/scale.md: one run on one machine, then the study on all of them."""
    speech = lengths(assumed)
    batches = durations(assumed, speech)
    longest_first = sorted(range(len(batches)), key=lambda index: -batches[index])
    warm = run(batches, record=assumed.record)
    cold = run(batches, load=assumed.load, record=assumed.record)
    lines = [
        f"{name}: {sum(batches) / 3600:.2f} device hours a run, its longest batch {max(batches):.1f} s",
        f"  one run, models loaded before     {warm.seconds:6.0f} s  {warm.use:6.1%} of {DEVICES} devices",
        f"  the same, longest batches first   {_share(run(batches, record=assumed.record, order=longest_first))}",
        f"  the same, models to be loaded     {_share(cold)}",
        f"  the same, twice as slow a device  {_share(run(batches, slowness=[2.0] + [1.0] * (DEVICES - 1)))}",
    ]
    later_after = run_then_score(assumed, speech, assumed.load)  # models were let go of, metrics were not
    first_after = run_then_score(assumed, speech, assumed.load, assumed.load_metrics)
    lines.append(f"  metrics when all is decoded       {_share(run_then_score(assumed, speech))}")
    lines.append(f"  the same, models to be loaded     {_share(later_after)}")
    for title, first, later in (
        ("models kept", cold, warm), ("a process a run", cold, cold),
        ("metrics after", first_after, later_after), ("both", first_after, first_after),
    ):  # fmt: skip
        each = [first.seconds + assumed.start] * MACHINES + [later.seconds + assumed.start] * (CONFIGS - MACHINES)
        whole = study(each)
        use = CONFIGS * sum(batches) / (MACHINES * DEVICES * whole)
        lines.append(f"  {CONFIGS} runs, {title:<26}{whole / 3600:6.2f} h  {use:6.1%} of {MACHINES * DEVICES} devices")
    return lines


def _share(done: Run) -> str:
    return f"{done.seconds:6.0f} s  {done.use:6.1%} of {len(done.worked)} devices"


def report() -> str:
    """All figures of docs/scale.md."""
    batch_8 = Assumed(batch_size=8, target_pass=0.00464, draft_pass=0.00074)
    return "\n".join(figures("batch 1", Assumed()) + figures("batch 8", batch_8))


if __name__ == "__main__":
    print(report())
