"""Scores audio on disk: when all of a run is decoded (``metrics.when=after``), or long after (experiments/score.py)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from pcg import constraints, digest
from pcg.config.build import is_built
from pcg.config.fingerprint import fingerprints, of_utterances
from pcg.config.settings import Node, metric_nodes
from pcg.config.validate import ConfigError, nearest, problems_of_language, problems_of_metrics, refuse
from pcg.constraints import Device, up_to
from pcg.interfaces import Metric
from pcg.results import environment, store
from pcg.results.records import Records, newest, write_json
from pcg.results.rows import utterance_rows
from pcg.results.schema import quality
from pcg.runner.batch import baseline_of, read_wav
from pcg.runner.jobs import Executor, InProcess
from pcg.runner.loading import load_dataset, load_metrics, release_models
from pcg.runner.schedule import WorkerDied
from pcg.runner.scores import ScoreMemo, Scores
from pcg.types import Figure, Result, Utterance

# Of conf/score.yaml.
_KEYS = {"run": str, "metrics": Mapping[str, Any], "device": Device, "threads": Annotated[int, up_to(10_000)]}
TOGETHER = 32  # utterances scored between two writes
Line = dict[str, Any]  # of the file of scores: utterance, scores, baseline_scores
log = logging.getLogger("pcg")


@dataclass(frozen=True)
class ScoreJob:
    """Scores audio of a run (a ``pcg.runner.jobs.Job``).

    Attributes:
        folder: of the run.
        audio: by utterance, its file in the folder, as the run's record has it.
        batches: ids of the utterances that are scored together.
    """

    metrics: Mapping[str, Node]
    dataset: Node
    folder: Path
    audio: Mapping[str, str]
    batches: tuple[tuple[str, ...], ...]

    def load(self, _device: torch.device, memo: ScoreMemo) -> Scorer:
        """Load the metrics, each onto the device that its own config names; ``cuda`` is that of this process."""
        return Scorer(self, memo)

    def given_up(self, index: int, death: WorkerDied) -> None:
        """Raise: without these scores the run would have wrong figures."""
        names = self.batches[index]
        raise RuntimeError(f"utterances {names[0]} to {names[-1]} cannot be scored: {death}")


class Scorer:
    """A score job with its metrics loaded, in a process that holds no decoding models any more.

    Raises:
        ValueError: an utterance of the run is no longer in the dataset, or its audio no longer in the folder.
    """

    described: Mapping[str, Any] = {}

    def __init__(self, job: ScoreJob, memo: ScoreMemo) -> None:
        release_models()
        self._job, self._memo = job, memo
        self._metrics = load_metrics(job.metrics)
        self._utterances = _utterances(load_dataset(job.dataset), [name for batch in job.batches for name in batch])

    def do(self, index: int) -> list[Line]:
        utterances, audio = [self._utterances[name] for name in self._job.batches[index]], self._job.audio
        own = self._score(utterances, [audio[utterance.id] for utterance in utterances])
        with_baseline = [
            utterance for utterance in utterances if (self._job.folder / baseline_of(audio[utterance.id])).exists()
        ]
        alone = self._score(with_baseline, [baseline_of(audio[utterance.id]) for utterance in with_baseline])
        return [
            {"utterance": name, "scores": own[name], "baseline_scores": alone.get(name, {})}
            for name in self._job.batches[index]
        ]

    def _score(self, utterances: Sequence[Utterance], files: Sequence[str]) -> dict[str, Scores]:
        folder = self._job.folder
        if lost := [file for file in files if not (folder / file).is_file()]:
            raise ValueError(f"{folder}: {len(lost)} audio file(s) of the run are gone, the first is {lost[0]}")
        clips = [read_wav(folder / file) for file in files]
        scores = self._memo.score(self._metrics, self._job.metrics, clips, utterances)
        return {utterance.id: score for utterance, score in zip(utterances, scores, strict=True)}


def scored(
    metrics: Mapping[str, Node],
    dataset: Node,
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    executor: Executor,
) -> list[dict[str, Any]]:
    """Return the records with the scores of these metrics instead of their own.

    Scores are kept in the run's folder, so that a process that is killed loses those of a few utterances at most.

    Raises:
        ValueError: two utterances share a file.
    """
    scores = Records(folder / f"scores-{_id(metrics)}.jsonl")
    rows = [row for record in records for row in record["rows"] if row["error"] is None]
    audio = {row["utterance"]: row["audio"] for row in rows}
    _check_apart(folder, audio)
    contents = {row["utterance"]: _content(folder, row) for row in rows}
    done = {line["utterance"]: line for line in scores.lines if line.get("heard") == contents.get(line["utterance"])}
    pending = [name for name in audio if name not in done]
    batches = tuple(tuple(pending[start : start + TOGETHER]) for start in range(0, len(pending), TOGETHER))
    if batches:
        executor.begin(ScoreJob(metrics, dataset, folder, audio, batches))
        for lines in executor.do(range(len(batches)), lambda: False):
            for line in lines:
                scores.append({**line, "heard": contents[line["utterance"]]})
                done[line["utterance"]] = line

    def with_scores(row: Mapping[str, Any]) -> dict[str, Any]:
        line = done.get(row["utterance"], {})
        return {**row, **{key: line[key] for key in ("scores", "baseline_scores") if key in line}}

    return [{**record, "rows": list(map(with_scores, record["rows"]))} for record in records]


def _content(folder: Path, row: Mapping[str, Any]) -> str:
    """Digest of an utterance's text and audio, that of the target alone too: scores are of this content only."""
    digest_of_all = hashlib.blake2b(row["text"].encode(), digest_size=8)
    for file in (row["audio"], baseline_of(row["audio"])):
        if (folder / file).is_file():
            digest_of_all.update(digest.of_file(folder / file).encode())
    return digest_of_all.hexdigest()


def _check_apart(folder: Path, audio: Mapping[str, str]) -> None:
    by_file = {file: name for name, file in audio.items()}
    lost = [(name, by_file[file]) for name, file in audio.items() if by_file[file] != name]
    if lost:
        raise ValueError(
            f"{folder}: utterances {lost[0][0]!r} and {lost[0][1]!r} share an audio file, as names did in earlier "
            "versions: move the folder away and decode the run again"
        )


def _utterances(dataset: Iterable[Utterance], names: Sequence[str]) -> dict[str, Utterance]:
    by_id = {utterance.id: utterance for utterance in dataset}
    missing = [name for name in names if name not in by_id]
    if missing:
        raise ValueError(f"the dataset lacks {len(missing)} utterance(s) of the run, the first is {missing[0]}")
    return by_id


def refuse_changed(dataset: Iterable[Utterance], result: Result, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where a text or voice of the run has changed in the dataset: its audio is of the former.

    Utterances that were added since do not matter.
    """
    run, texts = result.values["config"], {row["utterance"]: row["text"] for row in rows}
    by_id = _utterances(dataset, list(texts))
    begin = f"the dataset has changed since {result.folder} was decoded: utterance"
    advice = "decode it again, or restore the dataset"
    for name, text in texts.items():
        if by_id[name].text != text:
            raise ValueError(f"{begin} {name!r} was {text!r} and now is {by_id[name].text!r}; {advice}")
    made = run.get("fingerprints", {}).get("dataset")
    if made not in (None, of_utterances(each for name, each in by_id.items() if name in texts)):
        raise ValueError(f"{begin}s have other voices, recordings, speakers or words of their voices; {advice}")


def figures_of(metrics: Mapping[str, Metric]) -> dict[str, Figure]:
    """The figures that the metrics declare, by key."""
    return {key: figure for metric in metrics.values() for key, figure in metric.figures.items()}


def rescore(config: Mapping[str, Any]) -> Path:
    """Score a finished run's audio again, by other metrics; the run's own result stays as it is.

    Returns:
        The JSON file with the figures, in the run's folder: ``metrics`` (their config) and ``quality``, as in
        ``result.json``.

    Raises:
        ValueError: no finished run there, or its dataset has changed since.
    """
    torch.set_num_threads(config["threads"])
    folder = Path(config["run"]).expanduser()
    result = store.read(folder)
    if result is None:
        raise ValueError(f"run={folder}: no finished run there (no {store.NAME})")
    nodes = metric_nodes(config["metrics"])
    decoded, dataset = newest(Records(folder / "batches.jsonl").lines), result.values["config"]["dataset"]
    all_rows = [row for record in decoded for row in record["rows"]]
    if not all_rows:
        raise ValueError(
            f"run={folder}: batches.jsonl, which lists the files in audio/, is gone or empty: decode again"
        )
    refuse_changed(load_dataset(dataset), result, all_rows)
    records = scored(nodes, dataset, folder, decoded, InProcess(torch.device("cpu"), ScoreMemo()))
    rows = [row for row in utterance_rows(records) if row["error"] is None]
    figures = quality({0: dict(enumerate(rows))}, figures_of(load_metrics(nodes)))
    path = folder / f"scores-{_id(nodes)}.json"
    document = {
        "run_id": result.values["run_id"], "metrics": nodes, "versions": environment.versions(), "quality": figures,
    }  # fmt: skip
    write_json(path, document)
    shown = [f"{name} {value:.4f}" for name, value in figures.items() if isinstance(value, float)]
    log.info("%s: %s -> %s", result.values["label"], "  ".join(shown), path)
    return path


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists what is wrong with the config of experiments/score.py."""
    problems = [f"{key}: unknown key{nearest(key, _KEYS)}" for key in config if key not in _KEYS]
    problems += [*constraints.problems(config, _KEYS), *problems_of_metrics(config["metrics"])]
    if not metric_nodes(config["metrics"]):
        problems.append("metrics: name at least one metric")
    try:
        result = store.read(Path(config["run"]).expanduser())
    except ValueError as error:  # of another version, or no JSON
        raise ConfigError([*problems, f"run={config['run']}: {error}"]) from error
    if result is not None and not is_built(result.values["config"]["codec"]):
        problems.append(
            f"run={config['run']}: was decoded without a codec (codec=none), so there is no audio to score; its tokens "
            "are in tokens/"
        )
    elif result is not None:
        problems += problems_of_language(config["metrics"], result.values["config"]["dataset"])
    else:
        place = Path(config["run"]).expanduser() / store.NAME
        why = store.broken(place) if place.exists() else f"no finished run there (no {store.NAME})"
        problems.append(f"run={config['run']}: {why}")
    refuse(problems)


def _id(nodes: Mapping[str, Any]) -> str:
    """A digest of metrics: of their config and of the files at its paths."""
    described = json.dumps([nodes, fingerprints({"metrics": nodes})], sort_keys=True)
    return hashlib.blake2b(described.encode(), digest_size=4).hexdigest()
