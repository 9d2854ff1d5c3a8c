"""Scoring audio on disk: when a run is decoded (``metrics.when=after``), or long after (experiments/score.py)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pcg.interfaces import Dataset, Metric
from pcg.runner import environment, parts, store
from pcg.runner.batch import baseline_wav_name, read_wav, wav_name
from pcg.runner.build import build
from pcg.runner.records import Records, latest, write_atomically
from pcg.runner.result import Ratios, quality
from pcg.runner.scores import ScoreMemo, Scores
from pcg.runner.settings import Settings, out_of_range
from pcg.runner.validate import ConfigError, metric_nodes, nearest, problems_of_metrics
from pcg.types import Utterance

_TOGETHER = 32  # utterances scored between two writes
log = logging.getLogger("pcg")


def scored(
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Metric],
    nodes: Mapping[str, Any],
    dataset: Iterable[Utterance],
    memo: ScoreMemo,
) -> list[dict[str, Any]]:
    """The records with the scores of these metrics instead of their own.

    What is scored is kept in the run's folder, so that a kill costs no more than a few utterances.

    Raises:
        ValueError: an utterance of the run is no longer in the dataset, or its audio no longer in the folder.
    """
    known = Records(folder / f"scores-{_id(nodes)}.jsonl")
    done = {line["utterance"]: line for line in known.lines}
    decoded = [row["utterance"] for record in records for row in record["rows"] if row["error"] is None]
    pending = _utterances(dataset, [name for name in decoded if name not in done])
    for start in range(0, len(pending), _TOGETHER):
        said = pending[start : start + _TOGETHER]
        own = _score(folder, [wav_name(each) for each in said], said, metrics, nodes, memo)
        with_baseline = [each for each in said if (folder / baseline_wav_name(each)).exists()]
        alone = _score(folder, [baseline_wav_name(each) for each in with_baseline], with_baseline, metrics, nodes, memo)
        for each in said:
            line = {"utterance": each.id, "scores": own[each.id], "baseline_scores": alone.get(each.id, {})}
            known.append(line)
            done[each.id] = line
    return [{**record, "rows": [_with_scores(row, done) for row in record["rows"]]} for record in records]


def _score(
    folder: Path,
    names: Sequence[str],
    said: Sequence[Utterance],
    metrics: Mapping[str, Metric],
    nodes: Mapping[str, Any],
    memo: ScoreMemo,
) -> dict[str, Scores]:
    lost = [name for name in names if not (folder / name).is_file()]
    if lost:
        raise ValueError(f"{folder}: {len(lost)} audio file(s) of the run are gone, the first is {lost[0]}")
    audio = [read_wav(folder / name) for name in names]
    return dict(zip([each.id for each in said], memo.score(metrics, nodes, audio, said), strict=True))


def _utterances(dataset: Iterable[Utterance], names: Sequence[str]) -> list[Utterance]:
    if not names:
        return []
    there = {utterance.id: utterance for utterance in dataset}
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"the dataset lacks {len(missing)} utterance(s) of the run, the first is {missing[0]}")
    return [there[name] for name in names]


def _with_scores(row: Mapping[str, Any], done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found = done.get(row["utterance"])
    return {**row, **{key: found[key] for key in ("scores", "baseline_scores")}} if found else dict(row)


def ratios_of(metrics: Mapping[str, Metric]) -> Ratios:
    return {name: columns for metric in metrics.values() for name, columns in metric.ratios.items()}


def rescore(config: Mapping[str, Any]) -> Path:
    """Score a finished run's audio anew; the run's own result stays as it is.

    Returns:
        The JSON file with the figures, in the run's folder: ``metrics`` (their config) and ``quality``, as in
        ``result.json``.

    Raises:
        ValueError: no finished run there.
    """
    torch.set_num_threads(config["threads"])
    folder = Path(config["run"])
    result = store.read(folder)
    if result is None:
        raise ValueError(f"run={folder}: no finished run there (no {store.NAME})")
    nodes = metric_nodes(config["metrics"])
    metrics = parts.load_metrics(nodes)
    dataset: Dataset = build(result.values["config"]["dataset"])
    records = scored(folder, latest(Records(folder / "batches.jsonl")), metrics, nodes, dataset, ScoreMemo())
    rows = [row for record in records for row in record["rows"] if row["error"] is None]
    figures = quality(rows, ratios_of(metrics))
    path = folder / f"scores-{_id(nodes)}.json"
    document = {
        "run_id": result.values["run_id"], "metrics": nodes, "versions": environment.versions(), "quality": figures,
    }  # fmt: skip
    write_atomically(path, json.dumps(document, indent=1, allow_nan=False) + "\n")
    shown = [f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float)]
    log.info("%s: %s -> %s", result.values["label"], "  ".join(shown), path)
    return path


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists what is wrong with the config of experiments/score.py."""
    known = ("run", "metrics", "device", "threads")
    problems = [f"{key}: unknown key{nearest(key, known)}" for key in config if key not in known]
    ranges = {key: Settings.RANGES[key] for key in ("device", "threads")}
    problems += [*out_of_range(config, ranges), *problems_of_metrics(config["metrics"])]
    if not metric_nodes(config["metrics"]):
        problems.append("metrics: name at least one metric")
    if not (Path(config["run"]) / store.NAME).is_file():
        problems.append(f"run={config['run']}: no finished run there (no {store.NAME})")
    if problems:
        raise ConfigError(problems)


def _id(nodes: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(nodes, sort_keys=True).encode(), digest_size=4).hexdigest()
