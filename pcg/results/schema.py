"""The result of a run: its keys, and the one place where counts become rates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcg.decoding.clock import PARTS
from pcg.decoding.statistics import COUNTS, DISTANCES
from pcg.metrics.aggregate import Estimate
from pcg.results.figures import as_values
from pcg.results.rows import BySeed, Row, ratio_of, utterance_rows
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
Record = Mapping[str, Any]
Declared = Mapping[str, Figure]


def summarise(run: Mapping[str, Any], records: Sequence[Record], declared: Declared) -> dict[str, Any]:
    """Counts, acceptance, speed, distortion and quality of finished batches.

    Args:
        run: the canonical config.
        records: one a batch, as ``pcg.runner.batch`` makes them.
        declared: the figures of all metrics.
    """
    all_rows = utterance_rows(records)
    rows = [row for row in all_rows if row["error"] is None]
    by_seed: BySeed = {0: dict(enumerate(rows))}
    return {
        "failures": [
            {"utterance": row["utterance"], "reason": row["error"]} for row in all_rows if row["error"] is not None
        ],
        **over_utterances(by_seed, run, declared),
        "engine": _engine(run, records),
        "speed": _speed([record for record in records if record["seconds"]], by_seed, run["decoding"]),
        "figures": as_values(declared),
        "left_out": _left_out(rows, declared) + _sound_left_out(run, rows),
    }


def over_utterances(rows: BySeed, run: Mapping[str, Any], declared: Declared) -> dict[str, Any]:
    """Counts, acceptance, distortion and quality of a run, or of the runs of several seeds.

    Args:
        rows: of the utterances that did not fail.
        run: the canonical config.
    """
    slots = ((run.get("target") or {}).get("text") or {}).get("slots", 1)
    return {
        "counts": _counts(_all(rows), run["decoding"].get("gamma", 0)),
        "acceptance": _acceptance(rows, slots),
        "distortion": _distortion(rows),
        "quality": quality(rows, declared),
    }


def _all(rows: BySeed) -> list[Row]:
    return [row for by_utterance in rows.values() for row in by_utterance.values()]


def _counts(rows: Sequence[Row], gamma: int) -> dict[str, Any]:
    finished = sum(row["finished"] for row in rows)
    columns = {key: [row.get(key) for row in rows] for key in COUNTS}
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


def _acceptance(rows: BySeed, slots: int) -> dict[str, Any]:
    """
    Args:
        slots: tokens in a frame of the target; 1 for targets without frames.
    """
    return {
        **_ratio(rows, "accepted", "tested", share=True).named("alpha"),
        "alpha_by_slot": _alpha_by_slot(_all(rows), slots),
        **_ratio(rows, "emitted", "target_passes").named("tau"),
        "alpha_exact": _ratio(rows, "sum_alpha_exact", "tested").value,
    }


def _alpha_by_slot(rows: Sequence[Row], slots: int) -> list[float | None] | None:
    """Accepted tokens of each slot over its accepted and recovered ones: all others were not tested."""
    kinds = [(place % slots, kind) for row in rows for place, kind in enumerate(row.get("kinds") or ())]
    accepted = [sum(slot == at and kind in _ACCEPTED for at, kind in kinds) for slot in range(slots)]
    recovered = [sum(slot == at and kind == "recovered" for at, kind in kinds) for slot in range(slots)]
    if slots == 1 or not sum(accepted) + sum(recovered):
        return None
    return [_over(kept, kept + lost) for kept, lost in zip(accepted, recovered, strict=True)]


def _distortion(rows: BySeed) -> dict[str, Any]:
    """Means over tested positions; the earth mover's distances over the positions at which they were measured, in the
    seeds that measured them."""
    means = {key: _ratio(rows, f"sum_{key}", "tested").value for key in DISTANCES}
    total, unlikely = means["tv"], means["overshoot_unlikely"]
    means["overshoot_likely"] = None if total is None or unlikely is None else max(total - unlikely, 0.0)
    positions = int(sum(row.get("sum_moved_positions") or 0 for row in _all(rows)))
    moved: dict[str, Any] = {**dict.fromkeys(MOVED), "moved_positions": positions or None}
    for key in ("sound", "sound_rest", "embedding", "embedding_rest"):
        measured = {seed: by_id for seed, by_id in rows.items() if _complete(by_id.values(), f"sum_{key}")}
        if positions and measured:
            estimate = ratio_of(measured, f"sum_{key}", "sum_moved_positions")
            moved |= {name: value for name, value in estimate.named(key).items() if name in MOVED}
    return {**means, **moved}


def _complete(rows: Iterable[Row], column: str) -> bool:
    return all(row.get(column) is not None for row in rows)


def _sound_left_out(run: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Why ``distortion.sound`` was asked for and is null."""
    if run["decoding"].get("sound_every") is None or _complete(rows, "sum_sound"):
        return []
    lawful = _complete(rows, "sum_tv")
    reason = "the sound of a token needs a codec (codec=none)" if lawful else "the rule states no law of one position"
    return [{"figure": "distortion.sound", "utterances": len(rows), "reason": reason}]


def _speed(records: Sequence[Record], rows: BySeed, decoding: Mapping[str, Any]) -> dict[str, Any]:
    """Rates over batches; a batch is timed as a whole."""
    own_loop = all(part in record["seconds"] for record in records for part in PARTS)  # an engine gives no parts
    whole = sum(sum(record["seconds"].values()) for record in records)
    seconds, tokens = _seconds_and_tokens(records, "")
    speed: dict[str, Any] = {
        **{key: value for name in WAITS for key, value in ratio_of(rows, name, None).named(name).items()},
        "tokens_per_second": _over(tokens, seconds) if own_loop else None,
        "tokens_per_second_whole": _over(tokens, whole),
        "rtf": _over(whole, sum(row["audio_seconds"] or 0.0 for row in _all(rows))),
        **dict.fromkeys(("baseline_tokens_per_second", "speedup", "speedup_ci95", "ideal_speedup", "clock")),
        "seconds": {part: sum(record["seconds"][part] for record in records) if own_loop else None for part in PARTS},
    }
    if not own_loop or decoding.get("mode", "speculative") != "speculative":  # a pass of both models for each token
        return speed
    if not decoding.get("gamma"):  # the target alone is its own baseline
        return {**speed, "baseline_tokens_per_second": speed["tokens_per_second"], "speedup": 1.0}
    if records and all(record["baseline_seconds"] for record in records):
        alone, alone_tokens = _seconds_and_tokens(records, "baseline_")
        clock = clock_of(records)
        baseline, own = ([timing_of(record, side, clock) for record in records] for side in ("baseline_", ""))
        tau = _ratio(rows, "emitted", "target_passes").value
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


def quality(rows: BySeed, declared: Declared) -> dict[str, Any]:
    """Figures of the run's audio and, if it was decoded, of the target's alone, over the utterances that have them.

    Raises:
        KeyError: a metric has not given a column that it declares.
    """
    values: dict[str, Any] = {}
    given = {key for row in _all(rows) for key in row}
    measured = {key for row in _all(rows) for key, value in row.items() if value is not None}
    for prefix in ("", "baseline_"):
        pairs = [figure.columns for figure in declared.values()]
        tops = {prefix + top for top, _ in pairs}
        bottoms = {prefix + bottom for top, bottom in pairs if bottom and prefix + top in measured}
        if tops & given and (missing := (tops | bottoms) - given):
            raise KeyError(f"metrics have not given the columns {', '.join(sorted(missing))}")
        if tops & given or not prefix:
            for key, figure in declared.items():
                top, bottom = figure.columns
                estimate = ratio_of(rows, prefix + top, bottom and prefix + bottom, figure.is_share)
                values |= estimate.named(prefix + key)
    return values


def _left_out(rows: Sequence[Row], declared: Declared) -> list[dict[str, Any]]:
    """Figures that some utterances cannot have: how many utterances, and why."""
    silent = any(row["audio_seconds"] is None for row in rows)
    reason = (
        "there is no audio without a codec (codec=none)"
        if silent
        else "there is neither a voice nor a recording to compare with"
    )
    counted = {key: sum(row.get(figure.columns[0], 0) is None for row in rows) for key, figure in declared.items()}
    return [{"figure": key, "utterances": count, "reason": reason} for key, count in counted.items() if count]


def _ratio(rows: BySeed, top: str, bottom: str, share: bool = False) -> Estimate:
    """A ratio of sums; no value if some utterance lacks the numerator (a rule without a law)."""
    return ratio_of(rows, top, bottom, share) if _complete(_all(rows), top) else Estimate(None, None)


def _over(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None
