"""Name, unit, format and direction of the figures of ``result.json``, for everything that shows them.

Metrics declare the figures of ``quality``, and the result stores these declarations; all others are declared here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pcg.types import Figure

FIGURES: Mapping[str, Figure] = {
    "acceptance.alpha": Figure("alpha", "", ".3f", "higher"),
    "acceptance.tau": Figure("tau", "", ".2f", "higher"),
    "speed.tokens_per_second": Figure("tokens/s", "", ".0f", "higher"),
    "speed.tokens_per_second_whole": Figure("tokens/s with prefill", "", ".0f", "higher"),
    "speed.speedup": Figure("speed-up", "", ".2f", "higher"),
    "speed.ideal_speedup": Figure("ideal", "", ".2f", "higher"),
    "speed.rtf": Figure("RTF", "", ".3f", "lower"),
    "speed.first_audio_seconds": Figure("first audio", "s", ".2f", "lower"),
    "speed.worst_gap_seconds": Figure("worst gap", "s", ".2f", "lower"),
    "distortion.tv": Figure("TV", "", ".3f", "lower"),
    "distortion.sound": Figure("sound", "dB", ".3f", "lower"),
    "counts.empty": Figure("empty", "", ".0f", "lower"),
}


def declared(values: Mapping[str, Any]) -> dict[str, Figure]:
    """The declarations of a result's ``quality``, by key."""
    return {
        key: Figure(**{**fields, "ratio": fields["ratio"] and tuple(fields["ratio"])})
        for key, fields in values["figures"].items()
    }


def measured(results: Sequence[Mapping[str, Any]]) -> dict[str, Figure]:
    """The figures of ``quality`` that some result has a value of, in their order."""
    return {
        key: figure
        for values in results
        for key, figure in declared(values).items()
        if values["quality"].get(key) is not None
    }


def texts(figures: Mapping[str, Figure], values: Mapping[str, float | None]) -> list[str]:
    """``WER 10.9 %`` and the like, of each figure that has a value."""
    pairs = [(figure, values.get(key)) for key, figure in figures.items()]
    return [figure.text(value) for figure, value in pairs if value is not None]


def as_values(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """The declarations as ``result.json`` stores them."""
    return {key: asdict(figure) for key, figure in figures.items()}


def of_earlier(keys: Iterable[str]) -> dict[str, Any]:
    """Declarations for a result before schema 7, which stored none, for the metrics that existed then.

    Figures of other metrics get no direction and no columns: none is marked as the best, and they are in no difference.
    """
    from pcg.metrics.asr import figures_of
    from pcg.metrics.mos import Mos
    from pcg.metrics.speaker import SpeakerSimilarity

    own = [key for key in keys if not key.startswith("baseline_") and not key.endswith("_ci95")]
    suffixes = [key.removeprefix("wer") for key in own if key.startswith("wer")]
    known = {key: figure for suffix in suffixes for key, figure in figures_of(suffix).items()}
    known |= {**Mos.figures, **SpeakerSimilarity.figures}
    return as_values({key: known.get(key, Figure(key)) for key in own})
