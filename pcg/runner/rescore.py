"""Scoring audio on disk: when a run is decoded (``metrics.when=after``), or long after (experiments/score.py)."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from pcg import constraints, digest
from pcg.config.build import is_built
from pcg.config.fingerprint import fingerprints, of_utterances
from pcg.config.settings import Node, metric_nodes
from pcg.config.validate import ConfigError, nearest, problems_of_language, problems_of_metrics
from pcg.constraints import Device, up_to
from pcg.interfaces import Metric
from pcg.results import environment, store
from pcg.results.records import Records, latest, write_atomically
from pcg.results.schema import quality
from pcg.runner.batch import baseline_of, read_wav
from pcg.runner.loading import load_dataset, load_metrics, release_models
from pcg.runner.scores import ScoreMemo, Scores
from pcg.types import Figure, Result, Utterance

# Of conf/score.yaml.
_KEYS = {"run": str, "metrics": Mapping[str, Any], "device": Device, "threads": Annotated[int, up_to(10_000)]}
TOGETHER = 32  # utterances scored between two writes
Line = dict[str, Any]  # of the file of scores: utterance, scores, baseline_scores
log = logging.getLogger("pcg")


@dataclass(frozen=True)
class Scoring:
    """What a process must know to score audio of a run; see ``pcg.runner.jobs.Work``.

    Attributes:
        metrics: to score by, by name.
        folder: of the run.
        audio: by utterance, its file in the folder, as the run's record has it.
        batches: ids of the utterances to be scored together.
    """

    metrics: Mapping[str, Node]
    dataset: Node
    folder: Path
    audio: Mapping[str, str]
    batches: tuple[tuple[str, ...], ...]

    def begun(self, _device: torch.device, memo: ScoreMemo) -> Scorer:
        """Metrics go to the device that their own config names; ``cuda`` is the process's."""
        return Scorer(self, memo)

    def alone(self, memo: ScoreMemo) -> Iterator[list[Line]]:
        """All of it, in this process."""
        scorer = Scorer(self, memo)
        return map(scorer.do, range(len(self.batches)))


class Scorer:
    """Scores batches in this process, which holds no decoding models any more.

    Raises:
        ValueError: an utterance of the run is no longer in the dataset, or its audio no longer in the folder.
    """

    def __init__(self, scoring: Scoring, memo: ScoreMemo) -> None:
        release_models()
        self._scoring, self._memo = scoring, memo
        self._metrics = load_metrics(scoring.metrics)
        names = [name for batch in scoring.batches for name in batch]
        self._utterances = _utterances(load_dataset(scoring.dataset), names)

    def do(self, index: int) -> list[Line]:
        said = [self._utterances[name] for name in self._scoring.batches[index]]
        audio, folder = self._scoring.audio, self._scoring.folder
        own = self._score(said, [audio[each.id] for each in said])
        with_baseline = [each for each in said if (folder / baseline_of(audio[each.id])).exists()]
        alone = self._score(with_baseline, [baseline_of(audio[each.id]) for each in with_baseline])
        return [
            {"utterance": each.id, "scores": own[each.id], "baseline_scores": alone.get(each.id, {})} for each in said
        ]

    def described(self) -> dict[str, Any]:
        """There are no models here."""
        return {}

    def _score(self, said: Sequence[Utterance], names: Sequence[str]) -> dict[str, Scores]:
        folder, nodes = self._scoring.folder, self._scoring.metrics
        lost = [name for name in names if not (folder / name).is_file()]
        if lost:
            raise ValueError(f"{folder}: {len(lost)} audio file(s) of the run are gone, the first is {lost[0]}")
        audio = [read_wav(folder / name) for name in names]
        return dict(zip([each.id for each in said], self._memo.score(self._metrics, nodes, audio, said), strict=True))


def scored(
    metrics: Mapping[str, Node],
    dataset: Node,
    folder: Path,
    records: Sequence[Mapping[str, Any]],
    score: Callable[[Scoring], Iterable[list[Line]]],
) -> list[dict[str, Any]]:
    """The records with the scores of these metrics instead of their own.

    What is scored is kept in the run's folder, so that a kill costs no more than a few utterances.

    Args:
        score: does the scoring, here or in other processes; batches come as they are finished.

    Raises:
        ValueError: two utterances share a file.
    """
    known = Records(folder / f"scores-{_id(metrics)}.jsonl")
    rows = [row for record in records for row in record["rows"] if row["error"] is None]
    audio = {row["utterance"]: row["audio"] for row in rows}
    _check_apart(folder, audio)
    heard = {row["utterance"]: _heard(folder, row) for row in rows}
    done = {line["utterance"]: line for line in known.lines if line.get("heard") == heard.get(line["utterance"])}
    pending = [name for name in audio if name not in done]
    batches = tuple(tuple(pending[start : start + TOGETHER]) for start in range(0, len(pending), TOGETHER))
    for lines in score(Scoring(metrics, dataset, folder, audio, batches)) if batches else ():
        for line in lines:
            known.append({**line, "heard": heard[line["utterance"]]})
            done[line["utterance"]] = line
    return [{**record, "rows": [_with_scores(row, done) for row in record["rows"]]} for record in records]


def _heard(folder: Path, row: Mapping[str, Any]) -> str:
    """Digest of what is scored of an utterance: its text and its audio, that of the target alone too."""
    found = hashlib.blake2b(row["text"].encode(), digest_size=8)
    for file in (row["audio"], baseline_of(row["audio"])):
        if (folder / file).is_file():
            found.update(digest.of_file(folder / file).encode())
    return found.hexdigest()


def _check_apart(folder: Path, audio: Mapping[str, str]) -> None:
    by_file = {file: name for name, file in audio.items()}
    lost = [(name, by_file[file]) for name, file in audio.items() if by_file[file] != name]
    if lost:
        raise ValueError(
            f"{folder}: utterances {lost[0][0]!r} and {lost[0][1]!r} share an audio file, as names did in earlier "
            "versions: move the folder away and decode the run anew"
        )


def _utterances(dataset: Iterable[Utterance], names: Sequence[str]) -> dict[str, Utterance]:
    there = {utterance.id: utterance for utterance in dataset}
    missing = [name for name in names if name not in there]
    if missing:
        raise ValueError(f"the dataset lacks {len(missing)} utterance(s) of the run, the first is {missing[0]}")
    return there


def _with_scores(row: Mapping[str, Any], done: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    found = done.get(row["utterance"])
    return {**row, **{key: found[key] for key in ("scores", "baseline_scores")}} if found else dict(row)


def refuse_changed(dataset: Iterable[Utterance], result: Result, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where a dataset no longer is what a run said: its audio would be held to another text or voice.

    Utterances that have come since do not matter.
    """
    run, texts = result.values["config"], {row["utterance"]: row["text"] for row in rows}
    there = _utterances(dataset, list(texts))
    begin = f"the dataset has changed since {result.folder} was decoded: utterance"
    advice = "decode it anew, or bring the dataset back"
    for name, text in texts.items():
        if there[name].text != text:
            raise ValueError(f"{begin} {name!r} was {text!r} and now is {there[name].text!r}; {advice}")
    made = run.get("fingerprints", {}).get("dataset")
    if made not in (None, of_utterances(each for name, each in there.items() if name in texts)):
        raise ValueError(f"{begin}s have other voices, recordings, speakers or words of their voices; {advice}")


def figures_of(metrics: Mapping[str, Metric]) -> dict[str, Figure]:
    """What all metrics of a run declare."""
    return {key: figure for metric in metrics.values() for key, figure in metric.figures.items()}


def rescore(config: Mapping[str, Any]) -> Path:
    """Score a finished run's audio anew; the run's own result stays as it is.

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
    decoded, dataset = latest(Records(folder / "batches.jsonl")), result.values["config"]["dataset"]
    all_rows = [row for record in decoded for row in record["rows"]]
    if not all_rows:
        raise ValueError(f"run={folder}: batches.jsonl, which says what audio/ holds, is gone or empty: decode it anew")
    refuse_changed(load_dataset(dataset), result, all_rows)
    records = scored(nodes, dataset, folder, decoded, lambda scoring: scoring.alone(ScoreMemo()))
    rows = [row for record in records for row in record["rows"] if row["error"] is None]
    figures = quality(rows, figures_of(load_metrics(nodes)))
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
    problems = [f"{key}: unknown key{nearest(key, _KEYS)}" for key in config if key not in _KEYS]
    problems += [*constraints.problems(config, _KEYS).values(), *problems_of_metrics(config["metrics"])]
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
    if problems:
        raise ConfigError(problems)


def _id(nodes: Mapping[str, Any]) -> str:
    """Of metrics: their config, and what lies at the paths that it names."""
    told = json.dumps([nodes, fingerprints({"metrics": nodes})], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=4).hexdigest()
