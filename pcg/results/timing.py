"""Formulas on measured seconds that runs, the bench, the GPU bench and plans share.

Seconds are by part of the loop (``pcg.decoding.clock.PARTS``); passes are counted by the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcg.metrics.aggregate import Estimate, paired_ratio

Timing = tuple[float, float]  # decode seconds, tokens


def clock_of(records: Sequence[Mapping[str, Any]]) -> str:
    """The seconds by which batches are compared with the target alone: ``cpu`` if all batches have both, else ``wall``.

    For one thread of a CPU both are the same on a quiet machine. On a busy one wall seconds include the time of other
    processes, which differs between the method and the target alone.
    """
    have_both = all(record.get("cpu_seconds") and record.get("baseline_cpu_seconds") for record in records)
    return "cpu" if records and have_both else "wall"


def timing_of(record: Mapping[str, Any], side: str, clock: str) -> Timing:
    """Decode seconds and tokens of a batch.

    Args:
        side: empty for the method, ``baseline_`` for the target alone.
    """
    return decode_seconds(seconds_of(record, side, clock)), record[f"{side}tokens"]


def seconds_of(record: Mapping[str, Any], side: str, clock: str) -> Mapping[str, float]:
    """The seconds of a batch by part."""
    seconds: Mapping[str, float] = record[f"{side}cpu_seconds" if clock == "cpu" else f"{side}seconds"]
    return seconds


def decode_seconds(seconds: Mapping[str, float]) -> float:
    """All seconds but those of prefill."""
    return sum(spent for part, spent in seconds.items() if part != "prefill")


def speedup(alone: Sequence[Timing], own: Sequence[Timing]) -> Estimate:
    """Seconds per token of the target alone over those of a method, on the same prompts in the same order."""
    (slow, slow_tokens), (fast, fast_tokens) = zip(*alone, strict=True), zip(*own, strict=True)
    return paired_ratio((slow, slow_tokens), (fast, fast_tokens))


def pass_seconds(seconds: Mapping[str, float], passes: Mapping[str, int], part: str) -> float | None:
    """Seconds of one pass of ``draft`` or ``target``; None if there was none."""
    return seconds[part] / passes[part] if passes.get(part) else None


def ideal_speedup(tau: float, one: float, of_round: float) -> float:
    """The speed-up of rounds whose rule, draws and loop cost nothing.

    Args:
        tau: tokens a round.
        one: seconds of a pass of the target alone, which gives one token: ``t_target(1)``.
        of_round: seconds of a round's passes: ``gamma * t_draft(1) + t_target(gamma + 1)``.
    """
    return tau * one / of_round


def measured_ideal(
    tau: float | None,
    alone: tuple[Mapping[str, float], Mapping[str, int]],
    own: tuple[Mapping[str, float], Mapping[str, int]],
) -> float | None:
    """``ideal_speedup`` of measured seconds and passes; None if one of them is missing.

    Args:
        alone: seconds and passes of the target alone.
        own: seconds and passes of the method; a round is a pass of its target.
    """
    one, rounds = pass_seconds(*alone, "target"), own[1].get("target")
    if tau is None or one is None or not rounds:
        return None
    return ideal_speedup(tau, one, (own[0]["draft"] + own[0]["target"]) / rounds)
