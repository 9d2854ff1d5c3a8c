"""The result of a run: what ``result.json`` holds, key by key, and the one place where counts become rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pcg.decoding.clock import PARTS
from pcg.decoding.statistics import COUNTS, DISTANCES, UNLIKELY
from pcg.metrics.aggregate import Estimate, figures, ratio
from pcg.results.figures import as_values
from pcg.results.timing import clock_of, decode_seconds, measured_ideal, seconds_of, speedup, timing_of
from pcg.types import Figure

_ACCEPTED = ("exact", "group", "candidate")  # kinds of tokens (``pcg.decoding.statistics.KINDS``)
SCHEMA = 8

# What is measured where decoding.sound_every asks for it.
MOVED = (
    "sound", "sound_ci95", "sound_rest", "embedding", "embedding_ci95", "embedding_rest", "moved_positions",
)  # fmt: skip
# Of a run that our own loop has decoded.
OWN_ENGINE: Mapping[str, Any] = {
    "name": "own", **dict.fromkeys(("version", "concurrency", "counters", "alpha", "not_given"))
}  # fmt: skip
# Every key of result.json; docs/results.md is this table (a test holds the two together).
KEYS: Mapping[str, str] = {
    "schema": "version of this layout; raised whenever a key changes its meaning",
    "run_id": "hash of the config without paths, logger, study, devices, max_failures, dry, status, plan and "
    "objective, and of what it reads: same id, same figures",
    "study": "folder under outputs/ that the run belongs to",
    "label": "the method with the settings of its rule",
    "method": "name of the rule, or `target alone`",
    "overrides": "what the command line (or the sweep) asked for",
    "config": "the resolved config that the run_id is a hash of; `fingerprints` tell the content of "
    "models at their paths, and of the dataset: ids, texts, recordings",
    "engine.name": "what decoded: `own` is our loop. In results before schema 6 it is",
    "engine.version": "package and version of another engine, and what the environment has chosen of it (vLLM's model "
    "runner); null of our loop, as is all that follows",
    "engine.concurrency": "requests that it had at work at once",
    "engine.counters": "what it counted itself: rounds, drafted, tested, accepted, whole rounds where an utterance was "
    "cut in one. Ours (`counts`) leave the last round of each utterance out of tested, accepted, recovered and bonus: "
    "an engine does not tell whether a draft was the last token. And they count the prompt's own pass as one of "
    "target_passes and its token as a bonus",
    "engine.alpha": "accepted / tested of its counters",
    "engine.not_given": "figures that are null here because the engine does not tell them: by key, the reason",
    "git.commit": "commit of the code; null outside a checkout",
    "git.dirty": "whether tracked files had changes on top of it",
    "versions": "Python and the packages that figures depend on; null where one is not installed",
    "device": "name of the device that decoded",
    "devices": "how many of them shared the run when it was finished, each with a process and models of its own",
    "started": "when the run was first started (UTC, ISO 8601)",
    "wall_seconds": "from each start of the run to its last batch then, summed; model loading is in it, metrics where "
    "`when` is inline",
    "failures": "utterances that failed: `utterance` and `reason`; they count nowhere else",
    "groups": "sizes in tokens of the rule's groups: number of groups, mean, median, largest, share of singletons, "
    "bytes of the table, `key` of its file in pcg's cache (`groups-KEY.safetensors`), `histogram` (edges 1, 2, 4, ...: "
    "groups from each to below the next); null without groups",
    "layouts.target": "how the target's weights lie in memory, and so what multiplies by them (docs/bench.md); null "
    "for models without a choice, where an engine decoded, and in results before this key was",
    "layouts.draft": "the draft's",
    "counts.utterances": "utterances decoded",
    "counts.rounds": "rounds of speculative decoding, summed over utterances",
    "counts.target_passes": "target passes an utterance took part in, prefill apart, summed",
    "counts.draft_passes": "draft passes an utterance took part in, prefill apart, summed",
    "counts.drafted": "draft tokens proposed, all candidates of a position counted; a target pass scores one more",
    "counts.tested": "positions of the draft tested (those after the first rejection of a round were not), each once "
    "however many candidates it had",
    "counts.accepted": "draft tokens kept",
    "counts.accepted_by_position": "of those, by position in the block: gamma numbers",
    "counts.group_only_accepted": "accepted where exact matching, on the same random number, would not have; null "
    "where an engine decoded",
    "counts.rival_accepted": "accepted that were not the first candidate of their position (decoding.candidates); null "
    "in results before schema 4",
    "counts.recovered": "tokens emitted after a rejection",
    "counts.bonus": "tokens emitted after gamma acceptances, or after a candidate that was not the first",
    "counts.emitted": "tokens emitted in all: accepted, recovered, bonus, end-of-speech included",
    "counts.finished": "utterances that ended by themselves (end-of-speech)",
    "counts.truncated": "utterances cut at decoding.max_tokens",
    "counts.empty": "utterances in which no speech token came before the end: silence, the worst there is for every "
    "metric; null in results of schema 1",
    "acceptance.alpha": "accepted / tested; null without a draft",
    "acceptance.alpha_by_slot": "alpha of the tokens that were said, by their place in a frame, where the target says "
    "several a frame (text.slots); else null, and where an engine decoded",
    "acceptance.tau": "emitted / target_passes: recovered and bonus tokens count",
    "acceptance.alpha_exact": "what exact matching would have accepted in expectation on the same tests, of the first "
    "candidate",
    "speed.tokens_per_second": "emitted / decode seconds (prefill apart), all utterances of a batch together; null "
    "where an engine decoded, which does not tell prefill apart",
    "speed.tokens_per_second_whole": "emitted / seconds of compute, prefill included: what engines are compared by; "
    "null in results before schema 6",
    "speed.rtf": "seconds of compute, prefill included, per second of audio; lower is faster; null without a codec",
    "speed.baseline_tokens_per_second": "of the target alone, on the same prompts, interleaved in the same process",
    "speed.speedup": "baseline decode seconds per token / decode seconds per token, by `speed.clock`; null where mode "
    "is not speculative",
    "speed.ideal_speedup": "tau * target pass of 1 / (draft passes and target pass of a round), as measured",
    "speed.clock": "by which seconds speedup and ideal_speedup are: `cpu`, those that the decoding thread had on the "
    "processor, where one thread of a CPU decoded, or `wall`; all other figures are of wall seconds; null without a "
    "speed-up that was measured, and in results of before",
    "speed.first_audio_seconds": "from the first pass to the first audio, mean over utterances: prefill, the rounds "
    "until `decoding.chunk` tokens are known, and the codec's time for them (docs/streaming.md). In a batch rows wait "
    "for each other. Null without a codec, where an engine decoded, and in results of before, as are the next three",
    "speed.worst_gap_seconds": "the longest that a player which starts then waits for a next piece, mean over "
    "utterances: 0 where none is late",
    "speed.baseline_first_audio_seconds": "of the target alone on the same prompts",
    "speed.baseline_worst_gap_seconds": "likewise",
    "speed.seconds.prefill": "target and draft prefill",
    "speed.seconds.draft": "draft passes and draws",
    "speed.seconds.target": "target passes",
    "speed.seconds.rule": "the acceptance rule",
    "speed.seconds.other": "the rest of the loop; measuring (alpha_exact, distortion) is not in it",
    "speed.peak_memory_bytes": "most memory at once: allocated on the GPU, or resident in the process on a CPU; of "
    "several devices the one with most",
    "distortion.tv": "total variation between the rule's law and the target, mean over tested positions; null if the "
    "rule has no closed law",
    "distortion.kl": "KL(law || target) in nats, mean over tested positions; null likewise",
    "distortion.overshoot_unlikely": "of tv, what the law puts above the target at tokens that the target hardly ever "
    f"says: below {UNLIKELY:g} of its largest probability; null likewise, and in results before schema 3",
    "distortion.overshoot_likely": "the rest of tv: what it puts above the target at all other tokens",
    "distortion.outside": "share of the law at tokens to which the target gives nothing, as after top-k and top-p; "
    "null likewise, and in results before schema 8",
    "distortion.sound": "earth mover's distance W_1 between law and target in dB, by what is heard of two tokens "
    "(docs/sound.md), mean over every `decoding.sound_every`-th tested position: what is certainly moved; null "
    "likewise, where that key is null, without a codec (`left_out` says so), and in results before schema 8",
    "distortion.sound_rest": "by how much that may be too low at most: what tokens hold that were not told apart",
    "distortion.embedding": "the same distance by the target's embeddings, brought to length 1: from 0 to 2",
    "distortion.embedding_rest": "likewise",
    "distortion.moved_positions": "tested positions at which these were measured",
    "quality.*": "one figure a metric, of the run's audio (conf/metrics says which and in what unit); null without a "
    "codec, since there is no audio then",
    "quality.baseline_*": "the same of the target alone on the same prompts",
    "figures.*": "what each figure of `quality` is, as its metric declares it: name, unit (`%` shows a share times "
    "100), format, which direction is `better` (null: neither), and the columns of utterances.parquet that it is a "
    "`ratio` of; tables, plots, W&B and pages read it here",
    "left_out": "figures that some utterances could not have (`figure`, `utterances`, `reason`), and that are of the "
    "others: speaker similarity where there is neither a voice nor a recording to compare with, all quality without a "
    "codec",
    "*_ci95": "[low, high]: 95 % interval over utterances of the figure beside it (speedup: paired, over batches); "
    "null where nothing is known of the spread; see Intervals",
}

WAITS = tuple(f"{side}{what}_seconds" for side in ("", "baseline_") for what in ("first_audio", "worst_gap"))
Row = Mapping[str, Any]
Record = Mapping[str, Any]
Declared = Mapping[str, Figure]


def summarise(run: Mapping[str, Any], records: Sequence[Record], declared: Declared) -> dict[str, Any]:
    """Counts, acceptance, speed, distortion and quality of finished batches.

    Args:
        run: the canonical config.
        records: one a batch, as ``pcg.runner.batch`` makes them.
        declared: the figures of all metrics together.
    """
    rows = [row for record in records for row in record["rows"] if row["error"] is None]
    gamma, by_token = run["decoding"].get("gamma", 0), run["decoding"].get("mode", "speculative") != "speculative"
    return {
        "failures": [
            {"utterance": row["utterance"], "reason": row["error"]}
            for record in records
            for row in record["rows"]
            if row["error"] is not None
        ],
        "counts": _counts(rows, gamma),
        "acceptance": _acceptance(rows, _slots(run)),
        "engine": _engine(run, records),
        "speed": _speed([record for record in records if record["seconds"]], rows, gamma, by_token),
        "distortion": _distortion(rows),
        "quality": quality(rows, declared),
        "figures": as_values(declared),
        "left_out": left_out(rows, declared) + _unheard(run, rows),
    }


def _counts(rows: Sequence[Row], gamma: int) -> dict[str, Any]:
    by_position = [sum(row["accepted_by_position"][place] for row in rows) for place in range(gamma)]
    finished = sum(row["finished"] for row in rows)
    columns = {key: [row["counts"][key] for row in rows] for key in COUNTS}
    summed = {key: None if None in column else sum(column) for key, column in columns.items()}
    return {
        "utterances": len(rows),
        **summed,
        "accepted_by_position": by_position,
        "finished": finished,
        "truncated": len(rows) - finished,
        "empty": sum(not row["tokens"] for row in rows),
    }


# What an engine leaves untold, by key of the result.
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
    counted = [record["counters"] for record in records if record["counters"]]
    counters = {key: sum(each[key] for each in counted) for key in counted[0]} if counted else None
    return {
        "name": node["name"],
        "version": node["version"],
        "concurrency": node["concurrency"],
        "counters": counters,
        "alpha": _over(counters["accepted"], counters["tested"]) if counters else None,
        "not_given": {**(_OF_DRAFTS if run["draft"] is not None else {}), **_OF_ALL},
    }


def _slots(run: Mapping[str, Any]) -> int:
    """Tokens of the target's frame; 1 where each is heard by itself."""
    return ((run.get("target") or {}).get("text") or {}).get("slots", 1)


def _acceptance(rows: Sequence[Row], slots: int) -> dict[str, Any]:
    return {
        **_with_interval("alpha", _per(rows, "counts", "accepted", "tested")),
        "alpha_by_slot": _alpha_by_slot(rows, slots),
        **_with_interval("tau", _per(rows, "counts", "emitted", "target_passes")),
        "alpha_exact": _per(rows, "sums", "alpha_exact", "tested").value,
    }


def _alpha_by_slot(rows: Sequence[Row], slots: int) -> list[float | None] | None:
    """A token that was said was accepted, or recovered where the draft's was rejected, or was not tested."""
    kinds = [(place % slots, kind) for row in rows for place, kind in enumerate(row.get("kinds", ()))]
    accepted = [sum(at == slot and kind in _ACCEPTED for at, kind in kinds) for slot in range(slots)]
    rejected = [sum(at == slot and kind == "recovered" for at, kind in kinds) for slot in range(slots)]
    if slots == 1 or not sum(accepted) + sum(rejected):
        return None
    return [_over(kept, kept + lost) for kept, lost in zip(accepted, rejected, strict=True)]


def _distortion(rows: Sequence[Row]) -> dict[str, float | None]:
    found = {key: _per(rows, "sums", key, "tested").value for key in DISTANCES}
    total, unlikely = found["tv"], found["overshoot_unlikely"]
    found["overshoot_likely"] = None if total is None or unlikely is None else max(total - unlikely, 0.0)
    return {**found, **_moved(rows)}


def _moved(rows: Sequence[Row]) -> dict[str, Any]:
    """The earth mover's distances, over the positions at which they were measured."""
    measured = sum(row["sums"].get("moved_positions") or 0 for row in rows)
    found: dict[str, Any] = {**dict.fromkeys(MOVED), "moved_positions": int(measured) or None}
    for key in ("sound", "sound_rest", "embedding", "embedding_rest"):
        if measured and all(row["sums"].get(key) is not None for row in rows):
            moved, at = ([row["sums"][of] for row in rows] for of in (key, "moved_positions"))
            told = _with_interval(key, ratio(moved, at))
            found |= {name: value for name, value in told.items() if name in MOVED}
    return found


def _unheard(run: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Why ``distortion.sound`` was asked for and is not there."""
    if run["decoding"].get("sound_every") is None or all(row["sums"].get("sound") is not None for row in rows):
        return []
    reason = (
        "the rule states no law of one position"
        if any(row["sums"].get("tv") is None for row in rows)
        else "without a codec nothing is heard of a token (codec=none)"
    )
    return [{"figure": "distortion.sound", "utterances": len(rows), "reason": reason}]


def _speed(records: Sequence[Record], rows: Sequence[Row], gamma: int, by_token: bool) -> dict[str, Any]:
    """Rates over batches; a batch is timed as a whole."""
    apart = all(part in record["seconds"] for record in records for part in PARTS)
    seconds = {part: sum(record["seconds"][part] for record in records) if apart else None for part in PARTS}
    whole = sum(sum(record["seconds"].values()) for record in records)
    speech = sum(row["audio_seconds"] or 0.0 for row in rows)
    own = [(decode_seconds(record["seconds"]), record["tokens"]) for record in records]
    decoding, tokens = (sum(column) for column in zip(*own, strict=True)) if own else (0.0, 0)
    waited = [_with_interval(key, _mean(rows, key)) for key in WAITS]
    speed: dict[str, Any] = {
        **{key: value for found in waited for key, value in found.items()},
        "tokens_per_second": _over(tokens, decoding) if apart else None,
        "tokens_per_second_whole": _over(tokens, whole),
        "rtf": _over(whole, speech),
        "baseline_tokens_per_second": None,
        "speedup": None,
        "speedup_ci95": None,
        "ideal_speedup": None,
        "clock": None,
        "seconds": seconds,
    }
    if not apart:  # an engine decoded, without a baseline beside it
        return speed
    if by_token:  # a pass of both models a token, for the sake of its quality: no speed-up to claim
        return speed
    if gamma == 0:  # the target alone is its own baseline
        return {**speed, "baseline_tokens_per_second": speed["tokens_per_second"], "speedup": 1.0}
    if records and all(record["baseline_seconds"] for record in records):
        walls = [timing_of(record, "baseline_", "wall") for record in records]
        speed["baseline_tokens_per_second"] = _over(
            sum(emitted for _, emitted in walls), sum(spent for spent, _ in walls)
        )
        clock = speed["clock"] = clock_of(records)
        alone, ours = ([timing_of(record, side, clock) for record in records] for side in ("baseline_", ""))
        speed |= _with_interval("speedup", speedup(alone, ours))
        tau = _per(rows, "counts", "emitted", "target_passes").value
        speed["ideal_speedup"] = measured_ideal(tau, *(_passes(records, side, clock) for side in ("baseline_", "")))
    return speed


def _passes(records: Sequence[Record], side: str, clock: str) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds and passes of the draft and of the target, summed over batches."""
    spent = [seconds_of(record, side, clock) for record in records]
    seconds = {part: sum(parts[part] for parts in spent) for part in ("draft", "target")}
    return seconds, {"target": sum(record[f"{side}calls"]["target"] for record in records)}


def quality(rows: Sequence[Row], declared: Declared) -> dict[str, Any]:
    """Figures of the run's audio and of the target's alone, over the utterances that were scored."""
    quality: dict[str, Any] = {}
    for prefix, scores in (("", "scores"), ("baseline_", "baseline_scores")):
        scored = [row[scores] for row in rows if row[scores]]
        if prefix and not scored:
            continue  # the target was not decoded alone
        for name, found in figures(scored, declared).items():
            quality |= _with_interval(prefix + name, found)
    return quality


def left_out(rows: Sequence[Row], declared: Declared) -> list[dict[str, Any]]:
    """Figures that some utterances could not have, how many, and why."""
    silent = any(row["audio_seconds"] is None for row in rows)
    reason = (
        "there is no audio without a codec (codec=none)"
        if silent
        else "there is neither a voice nor a recording to compare with"
    )
    counted = {
        key: sum(row["scores"].get(figure.columns[0], 0) is None for row in rows) for key, figure in declared.items()
    }
    return [{"figure": name, "utterances": count, "reason": reason} for name, count in counted.items() if count]


def _per(rows: Sequence[Row], kind: str, top: str, bottom: str) -> Estimate:
    """A ratio of sums over utterances; no value where some utterance has no such sum (a rule without a law)."""
    if not rows or any(row[kind].get(top) is None for row in rows):
        return Estimate(None, None)
    share = (top, bottom) == ("accepted", "tested")
    return ratio([row[kind][top] for row in rows], [row["counts"][bottom] for row in rows], share=share)


def _mean(rows: Sequence[Row], key: str) -> Estimate:
    """The mean of a column over the rows that have it."""
    column = [row[key] for row in rows if row.get(key) is not None]
    return ratio(column) if column else Estimate(None, None)


def _with_interval(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value, f"{name}_ci95": None if found.ci95 is None else list(found.ci95)}


def _over(top: float, bottom: float) -> float | None:
    return top / bottom if bottom else None


def documentation() -> str:
    """The table of docs/results.md."""
    return "\n".join(
        ["| key | meaning |", "|---|---|", *(f"| `{key}` | {meaning} |" for key, meaning in KEYS.items()), ""]
    )


if __name__ == "__main__":
    print(documentation(), end="")
