"""The result of a run: its keys, and the one place where counts become rates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.decoding.clock import PARTS
from pcg.decoding.statistics import COUNTS, DISTANCES
from pcg.metrics.aggregate import Estimate, figures, ratio
from pcg.results.figures import as_values
from pcg.results.timing import clock_of, decode_seconds, measured_ideal, seconds_of, speedup, timing_of
from pcg.types import Figure

_ACCEPTED = ("exact", "group", "candidate")  # kinds of tokens (``pcg.decoding.statistics.KINDS``)
SCHEMA = 8
# Keys of ``distortion`` that are measured where decoding.sound_every asks for them.
MOVED = (
    "sound", "sound_ci95", "sound_rest", "embedding", "embedding_ci95", "embedding_rest", "moved_positions",
)  # fmt: skip
# ``engine`` of a run that our own loop has decoded.
OWN_ENGINE: Mapping[str, Any] = {
    "name": "own", **dict.fromkeys(("version", "concurrency", "counters", "alpha", "not_given"))
}  # fmt: skip
WAITS = tuple(f"{side}{what}_seconds" for side in ("", "baseline_") for what in ("first_audio", "worst_gap"))
# Every key of result.json with its meaning.
KEYS: Mapping[str, str] = dict(
    re.findall(r"^\| `(.+?)` \| (.+) \|$", Path(__file__).with_name("keys.md").read_text("utf-8"), re.MULTILINE)
)
Row = Mapping[str, Any]
Record = Mapping[str, Any]
Declared = Mapping[str, Figure]


def summarise(run: Mapping[str, Any], records: Sequence[Record], declared: Declared) -> dict[str, Any]:
    """Counts, acceptance, speed, distortion and quality of finished batches.

    Args:
        run: the canonical config.
        records: one a batch, as ``pcg.runner.batch`` makes them.
        declared: the figures of all metrics.
    """
    all_rows = [row for record in records for row in record["rows"]]
    rows = [row for row in all_rows if row["error"] is None]
    gamma, by_token = run["decoding"].get("gamma", 0), run["decoding"].get("mode", "speculative") != "speculative"
    return {
        "failures": [
            {"utterance": row["utterance"], "reason": row["error"]} for row in all_rows if row["error"] is not None
        ],
        "counts": _counts(rows, gamma),
        "acceptance": _acceptance(rows, ((run.get("target") or {}).get("text") or {}).get("slots", 1)),
        "engine": _engine(run, records),
        "speed": _speed([record for record in records if record["seconds"]], rows, gamma, by_token),
        "distortion": _distortion(rows),
        "quality": quality(rows, declared),
        "figures": as_values(declared),
        "left_out": _left_out(rows, declared) + _sound_left_out(run, rows),
    }


def _counts(rows: Sequence[Row], gamma: int) -> dict[str, Any]:
    finished = sum(row["finished"] for row in rows)
    columns = {key: [row["counts"][key] for row in rows] for key in COUNTS}
    return {
        "utterances": len(rows),
        **{key: None if None in column else sum(column) for key, column in columns.items()},
        "accepted_by_position": [sum(row["accepted_by_position"][at] for row in rows) for at in range(gamma)],
        "finished": finished,
        "truncated": len(rows) - finished,
        "empty": sum(not row["tokens"] for row in rows),
    }


# What an engine does not give, by key of the result.
_NO_PROBS = "the engine gives tokens, not the probabilities that they were drawn from"
_NO_PARTS = "the engine gives its seconds as a whole, prefill included"
_NO_BASELINE = "an engine holds one pair: the target alone is a run of its own (draft=none)"
_OF_DRAFTS = dict.fromkeys(("counts.group_only_accepted", "acceptance.alpha_exact", "distortion"), _NO_PROBS)
_OF_ALL = {
    **dict.fromkeys(("speed.tokens_per_second", "speed.seconds"), _NO_PARTS),
    **dict.fromkeys(("speed.speedup", "quality.baseline_*"), _NO_BASELINE),
    "speed.peak_memory_bytes": "the engine's memory is in processes of its own",
    "speed.first_audio_seconds": "the engine gives whole utterances, not tokens as they come",
}


def _engine(run: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    node = run.get("engine")
    if node is None:
        return dict(OWN_ENGINE)
    by_record = [record["counters"] for record in records if record["counters"]]
    counters = {key: sum(counts[key] for counts in by_record) for key in by_record[0]} if by_record else None
    return {
        "name": node["name"],
        "version": node["version"],
        "concurrency": node["concurrency"],
        "counters": counters,
        "alpha": _over(counters["accepted"], counters["tested"]) if counters else None,
        "not_given": {**(_OF_DRAFTS if run["draft"] is not None else {}), **_OF_ALL},
    }


def _acceptance(rows: Sequence[Row], slots: int) -> dict[str, Any]:
    """
    Args:
        slots: tokens in a frame of the target; 1 for targets without frames.
    """
    return {
        **_ratio(rows, "counts", "accepted", "tested").named("alpha"),
        "alpha_by_slot": _alpha_by_slot(rows, slots),
        **_ratio(rows, "counts", "emitted", "target_passes").named("tau"),
        "alpha_exact": _ratio(rows, "sums", "alpha_exact", "tested").value,
    }


def _alpha_by_slot(rows: Sequence[Row], slots: int) -> list[float | None] | None:
    """Accepted tokens of each slot over its accepted and recovered ones: all others were not tested."""
    kinds = [(place % slots, kind) for row in rows for place, kind in enumerate(row.get("kinds", ()))]
    accepted = [sum(slot == at and kind in _ACCEPTED for at, kind in kinds) for slot in range(slots)]
    recovered = [sum(slot == at and kind == "recovered" for at, kind in kinds) for slot in range(slots)]
    if slots == 1 or not sum(accepted) + sum(recovered):
        return None
    return [_over(kept, kept + lost) for kept, lost in zip(accepted, recovered, strict=True)]


def _distortion(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over tested positions; the earth mover's distances over the positions at which they were measured."""
    means = {key: _ratio(rows, "sums", key, "tested").value for key in DISTANCES}
    total, unlikely = means["tv"], means["overshoot_unlikely"]
    means["overshoot_likely"] = None if total is None or unlikely is None else max(total - unlikely, 0.0)
    positions = [row["sums"].get("moved_positions") or 0 for row in rows]
    moved: dict[str, Any] = {**dict.fromkeys(MOVED), "moved_positions": int(sum(positions)) or None}
    for key in ("sound", "sound_rest", "embedding", "embedding_rest"):
        column = [row["sums"].get(key) for row in rows]
        if moved["moved_positions"] and None not in column:
            moved |= {name: value for name, value in ratio(column, positions).named(key).items() if name in MOVED}
    return {**means, **moved}


def _sound_left_out(run: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Why ``distortion.sound`` was asked for and is null."""
    if run["decoding"].get("sound_every") is None or all(row["sums"].get("sound") is not None for row in rows):
        return []
    lawless = any(row["sums"].get("tv") is None for row in rows)
    reason = "the rule states no law of one position" if lawless else "the sound of a token needs a codec (codec=none)"
    return [{"figure": "distortion.sound", "utterances": len(rows), "reason": reason}]


def _speed(records: Sequence[Record], rows: Sequence[Row], gamma: int, by_token: bool) -> dict[str, Any]:
    """Rates over batches; a batch is timed as a whole.

    Args:
        by_token: the run made a pass of both models for each token, to measure quality, so that it has no speed-up.
    """
    own_loop = all(part in record["seconds"] for record in records for part in PARTS)  # an engine gives no parts
    whole = sum(sum(record["seconds"].values()) for record in records)
    decoding, tokens = _seconds_and_tokens(records, "")
    speed: dict[str, Any] = {
        **{key: value for name in WAITS for key, value in _mean(rows, name).named(name).items()},
        "tokens_per_second": _over(tokens, decoding) if own_loop else None,
        "tokens_per_second_whole": _over(tokens, whole),
        "rtf": _over(whole, sum(row["audio_seconds"] or 0.0 for row in rows)),
        **dict.fromkeys(("baseline_tokens_per_second", "speedup", "speedup_ci95", "ideal_speedup", "clock")),
        "seconds": {part: sum(record["seconds"][part] for record in records) if own_loop else None for part in PARTS},
    }
    if not own_loop or by_token:
        return speed
    if gamma == 0:  # the target alone is its own baseline
        return {**speed, "baseline_tokens_per_second": speed["tokens_per_second"], "speedup": 1.0}
    if records and all(record["baseline_seconds"] for record in records):
        alone, alone_tokens = _seconds_and_tokens(records, "baseline_")
        clock = clock_of(records)
        baseline, own = ([timing_of(record, side, clock) for record in records] for side in ("baseline_", ""))
        tau = _ratio(rows, "counts", "emitted", "target_passes").value
        speed |= {
            "baseline_tokens_per_second": _over(alone_tokens, alone),
            "clock": clock,
            **speedup(baseline, own).named("speedup"),
            "ideal_speedup": measured_ideal(tau, *(_passes(records, side, clock) for side in ("baseline_", ""))),
        }
    return speed


def _seconds_and_tokens(records: Sequence[Record], side: str) -> tuple[float, int]:
    """Wall seconds without prefill, and tokens."""
    seconds = sum(decode_seconds(record[f"{side}seconds"]) for record in records)
    return seconds, sum(record[f"{side}tokens"] for record in records)


def _passes(records: Sequence[Record], side: str, clock: str) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of the draft and of the target, and the target's passes, summed over batches."""
    by_record = [seconds_of(record, side, clock) for record in records]
    seconds = {part: sum(parts[part] for parts in by_record) for part in ("draft", "target")}
    return seconds, {"target": sum(record[f"{side}calls"]["target"] for record in records)}


def quality(rows: Sequence[Row], declared: Declared) -> dict[str, Any]:
    """Figures of the run's audio and of the target's alone, over the utterances that were scored."""
    values: dict[str, Any] = {}
    for prefix, scores in (("", "scores"), ("baseline_", "baseline_scores")):
        scored = [row[scores] for row in rows if row[scores]]
        if scored or not prefix:  # the target may not have been decoded alone
            for name, estimate in figures(scored, declared).items():
                values |= estimate.named(prefix + name)
    return values


def _left_out(rows: Sequence[Row], declared: Declared) -> list[dict[str, Any]]:
    """Figures that some utterances cannot have: how many utterances, and why."""
    silent = any(row["audio_seconds"] is None for row in rows)
    reason = (
        "there is no audio without a codec (codec=none)"
        if silent
        else "there is neither a voice nor a recording to compare with"
    )
    counted = {
        key: sum(row["scores"].get(figure.columns[0], 0) is None for row in rows) for key, figure in declared.items()
    }
    return [{"figure": key, "utterances": count, "reason": reason} for key, count in counted.items() if count]


def _ratio(rows: Sequence[Row], group: str, top: str, bottom: str) -> Estimate:
    """A sum of ``group`` over a count; no value where some utterance lacks the sum (a rule without a law)."""
    if not rows or any(row[group].get(top) is None for row in rows):
        return Estimate(None, None)
    share = (top, bottom) == ("accepted", "tested")
    return ratio([row[group][top] for row in rows], [row["counts"][bottom] for row in rows], share=share)


def _mean(rows: Sequence[Row], key: str) -> Estimate:
    """The mean of a column over the rows that have it."""
    column = [row[key] for row in rows if row.get(key) is not None]
    return ratio(column) if column else Estimate(None, None)


def _over(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None
