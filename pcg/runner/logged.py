"""What a logger is told under which key, with unit and direction: the tables of docs/wandb.md.

``python -m pcg.runner.logged`` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pcg.decoding.statistics import COUNTS
from pcg.results.figures import FIGURES
from pcg.results.schema import KEYS


class Key(NamedTuple):
    meaning: str
    unit: str = ""
    better: str = ""


# Of the run so far -> the key of result.json that it is at the end.
SO_FAR = {
    "alpha": "acceptance.alpha",
    "tau": "acceptance.tau",
    "tokens_per_second": "speed.tokens_per_second",
    "tokens_per_second_whole": "speed.tokens_per_second_whole",
    "speedup": "speed.speedup",
}
_UNITS = {"speed.tokens_per_second": "tokens a second", "speed.tokens_per_second_whole": "tokens a second"}


def _of_a_figure(key: str) -> Key:
    figure = FIGURES[key]
    return Key(
        f"`{key}` of the utterances so far: {KEYS[key].partition(';')[0]}", _UNITS.get(key, ""), figure.better or ""
    )


def of_a_run() -> Mapping[str, Key]:
    """With each utterance: the figures of the run so far."""
    return {
        **{f"run/{name}": _of_a_figure(key) for name, key in SO_FAR.items()},
        "run/*": Key(
            "one a figure of `quality`: `run/wer`, `run/mos`, ...; with `metrics.when=after` in the summary only",
            "as the metric declares it, shares not times 100",
            "as the metric declares it (`figures` in the config)",
        ),
        "run/failures": Key("utterances that failed", "", "lower"),
        "run/done": Key("share of the run's utterances that are done", "0 to 1"),
        "run/seconds_left": Key("what the others take if they take as long", "seconds"),
    }


def of_an_utterance() -> Mapping[str, Key]:
    """With each utterance: every number of its row in ``utterances.parquet``."""
    counts = {f"utterance/{name}": Key(f"as `counts.{name}`, of the utterance") for name in COUNTS}
    return {
        "utterance/batch": Key("the batch that it was decoded in"),
        "utterance/batch_seconds": Key("decode time of that batch, prefill apart", "seconds", "lower"),
        "utterance/audio_seconds": Key("length of what was said", "seconds"),
        "utterance/finished": Key("1 where end-of-speech was sampled"),
        **{
            f"utterance/{side}{name}": Key(f"as `speed.{side}{name}`, of the utterance", "seconds", "lower")
            for side in ("", "baseline_")
            for name in ("first_audio_seconds", "worst_gap_seconds")
        },
        **counts,
        "utterance/sum_*": Key("`alpha_exact` and the distances, summed over its tested tokens"),
        "utterance/*": Key("columns of the metrics: `word_errors`, `words`, `mos`, ..."),
        "utterance/baseline_*": Key("the same of the target alone"),
    }


def of_the_end() -> Mapping[str, Key]:
    """In the summary, when a run has ended."""
    return {
        **{
            key: Key("as in result.json", _UNITS.get(key, figure.unit), figure.better or "")
            for key, figure in FIGURES.items()
        },
        "quality.*": Key("as in result.json", "as the metric declares it", "as the metric declares it"),
        "*": Key(
            "every other key of result.json ([results.md](results.md)), dotted: `counts.emitted`, `distortion.tv`"
        ),
        "objective": Key("what the run is worth to a search (`objective=`); null without one", "", "higher"),
        "state": Key("`finished`, `failed` or `stopped`"),
        "reason": Key("why it failed or was stopped; null of a finished run"),
    }


def documentation() -> str:
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for title, keys in (
        ("### History: the run so far", of_a_run()),
        ("### History: the utterance", of_an_utterance()),
        ("### Summary", of_the_end()),
    ):
        yield from (title, "", "| key | meaning | unit | better |", "|---|---|---|---|")
        yield from (f"| `{key}` | {told.meaning} | {told.unit} | {told.better} |" for key, told in keys.items())
        yield ""


if __name__ == "__main__":
    print(documentation(), end="")
