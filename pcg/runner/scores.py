"""Scores of audio by metrics. Each clip is scored once a process: the target alone is the same for every rule of a
sweep."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pcg.interfaces import Metric
from pcg.types import Audio, Utterance

Scores = dict[str, float | str | None]


class ScoreMemo:
    """Scores audio by all metrics of a run, and remembers the scores by metric, utterance and content of the audio."""

    def __init__(self) -> None:
        self._known: dict[str, Scores] = {}

    def score(
        self,
        metrics: Mapping[str, Metric],
        nodes: Mapping[str, Any],
        audio: Sequence[Audio],
        utterances: Sequence[Utterance],
    ) -> list[Scores]:
        """All columns of each clip.

        Args:
            nodes: the metrics' configs; scores are remembered for the same settings only.
        """
        rows: list[Scores] = [{} for _ in audio]
        for name, metric in metrics.items():
            keys = [_key(nodes[name], clip, utterance) for clip, utterance in zip(audio, utterances, strict=True)]
            new = [index for index, key in enumerate(keys) if key not in self._known]
            if new:
                scored = metric.score([audio[index] for index in new], [utterances[index] for index in new])
                _check(name, scored)
                self._known.update({keys[index]: row for index, row in zip(new, scored, strict=True)})
            for row, key in zip(rows, keys, strict=True):
                row.update(self._known[key])
        return rows


def _check(name: str, rows: Sequence[Scores]) -> None:
    """Raise ValueError for a score that is not finite: figures would leave it out silently."""
    for row in rows:
        for column, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"metric {name!r} gave {column}={value}")


def to_pcm(audio: Audio) -> np.ndarray:
    """Samples as they are written to a WAV file: 16-bit, clipped."""
    return (np.clip(audio.samples, -1.0, 1.0) * 32767).round().astype(np.int16)


def _key(node: Any, audio: Audio, utterance: Utterance) -> str:
    digest = hashlib.blake2b(to_pcm(audio).tobytes(), digest_size=16)
    digest.update(json.dumps([node, audio.sample_rate, utterance.id, utterance.text], sort_keys=True).encode())
    return digest.hexdigest()
