"""A study's listening page: one static file beside the runs whose audio it plays; it needs no server.

``listening/`` holds the page without data. Style, script and data are written into the one file. Paths to the audio are
relative, so a study's folder can be moved as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcg.results import store
from pcg.results.figures import declared, measured, texts
from pcg.results.records import write_atomically
from pcg.runner.batch import baseline_of, read_wav
from pcg.types import Audio, Figure, Result

SHOWN = 50  # utterances on the page at most, the first of the study; the page says of how many
_CLIPS = 800  # clips on the page at most: with many methods there are fewer utterances
_PEAKS = 300  # points of a waveform
_PARTS = Path(__file__).with_name("listening")


def write(results: Sequence[Result], labels: Sequence[str], folder: Path) -> Path:
    """Write ``index.html`` into the study's report folder.

    Args:
        labels: what each run is called.
    """
    write_atomically(folder / "index.html", filled("page", content(results, labels, folder)))
    return folder / "index.html"


def filled(name: str, data: Mapping[str, Any]) -> str:
    """A page of ``listening/`` with its style, its script and its data inside."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    html, style, script = ((_PARTS / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    whole = html.replace("/*STYLE*/\n", style).replace("/*SCRIPT*/\n", script)
    return whole.replace("/*DATA*/", text.replace("<", "\\u003c"))


@dataclass(frozen=True)
class Reading:
    """What one method said.

    Attributes:
        method: its name, and its main figures as text.
        rows: one an utterance.
        run: the folder that the audio lies in.
    """

    method: dict[str, Any]
    rows: list[dict[str, Any]]
    run: Path


def readings(results: Sequence[Result], labels: Sequence[str]) -> list[Reading]:
    """One for each run. If no run is the target alone, what was decoded of it beside the first run comes first."""
    of_runs = [
        Reading(_method(result.values, label), store.read_utterances(Path(result.folder)), Path(result.folder))
        for result, label in zip(results, labels, strict=True)
    ]
    if any(result.values["method"] == "target alone" for result in results):
        return of_runs
    return [*_target_alone(results[0], of_runs[0]), *of_runs]


def content(results: Sequence[Result], labels: Sequence[str], folder: Path) -> dict[str, Any]:
    """The page's data: utterances in the dataset's order, each with one clip a method, in the table's order."""
    by_method = readings(results, labels)
    figures = {key: figure for key, figure in measured([run.values for run in results]).items() if figure.ratio}
    rows = {row["utterance"]: row for reading in by_method for row in reading.rows}
    shown: dict[str, dict[str, Any]] = {
        name: {"id": name, "text": rows[name]["text"], "speaker": rows[name]["speaker"], "clips": []}
        for name in list(rows)[: max(1, min(SHOWN, _CLIPS // len(by_method)))]
    }
    for method, reading in enumerate(by_method):
        for row in reading.rows:
            if row["utterance"] in shown:
                shown[row["utterance"]]["clips"].append(_clip(method, row, reading.run, folder, figures))
    return {
        "study": ", ".join(dict.fromkeys(result.values["study"] for result in results)),
        "methods": [reading.method for reading in by_method],
        "figures": [{"key": key, "name": figure.name} for key, figure in figures.items()],
        "total": len(rows),
        "utterances": list(shown.values()),
    }


def _method(values: Mapping[str, Any], label: str) -> dict[str, Any]:
    """A run's name, and those of its main figures that were measured as text."""
    speedup, alpha = values["speed"]["speedup"], values["acceptance"]["alpha"]
    speed = [] if speedup is None else [f"{speedup:.2f}×"]
    return {"name": label, "facts": speed + ([] if alpha is None else [f"α {alpha:.2f}"]) + _quality(values, "")}


def _quality(values: Mapping[str, Any], prefix: str) -> list[str]:
    """The figures of the run's audio as text; with prefix ``baseline_`` those of the target alone beside it."""
    return texts(declared(values), {key: values["quality"].get(prefix + key) for key in values["figures"]})


def _target_alone(result: Result, beside: Reading) -> list[Reading]:
    """The target alone as it was decoded beside a run, without tokens, which are not stored; empty if it was not."""
    if not (beside.run / "baseline_audio").exists():
        return []
    facts = ["1.00×", *_quality(result.values, "baseline_"), f"beside {beside.method['name']}"]
    own = ("utterance", "text", "speaker", "error")
    rows = [
        {key: row[key] for key in own}
        | {key.removeprefix("baseline_"): value for key, value in row.items() if key.startswith("baseline_")}
        | {"audio": row["audio"] and baseline_of(row["audio"]), "tokens": [], "kinds": []}
        for row in beside.rows
    ]
    return [Reading({"name": "target alone", "facts": facts}, rows, beside.run)]


def _clip(method: int, row: dict[str, Any], run: Path, folder: Path, figures: Mapping[str, Figure]) -> dict[str, Any]:
    """One clip: audio, tokens and figures of an utterance, or the reason why it failed."""
    if row["error"] is not None:
        return {"method": method, "error": row["error"]}
    transcript, audio = row.get("transcript"), read_wav(run / row["audio"])
    values = {key: _value(row, *figure.columns) for key, figure in figures.items()}
    return {
        "method": method,
        "src": Path(os.path.relpath(run / row["audio"], folder)).as_posix(),
        "seconds": audio.seconds,
        "peaks": _peaks(audio),
        "tokens": row["tokens"] if row["kinds"] else [],  # an engine does not give the kind of each token
        "kinds": "".join(kind[0] for kind in row["kinds"]),  # exact, group, candidate, recovered, bonus, plain
        # one item a token, or none: rows of earlier versions lack them
        "target": [_short(probability) for probability in row.get("target_probs") or []],
        "draft": [_short(probability) for probability in row.get("draft_probs") or []],
        "sizes": row.get("group_sizes") or [],
        "figures": {key: value for key, value in values.items() if value is not None},
        "facts": texts(figures, values),
        "words": None if transcript is None else aligned(row["text"], transcript),
    }


def _value(row: Mapping[str, Any], top: str, bottom: str | None) -> float | None:
    """A metric's figure of one utterance; None if it has none."""
    over = 1.0 if bottom is None else row.get(bottom)
    return None if row.get(top) is None or not over else row[top] / over


def _short(probability: float | None) -> float | None:
    return None if probability is None else float(f"{probability:.3g}")


def _peaks(audio: Audio) -> list[int]:
    """The loudest sample of each of up to 300 stretches of the clip, from 0 to 99."""
    samples = np.abs(audio.samples)
    if not len(samples):
        return []
    stretches = np.array_split(samples, min(_PEAKS, len(samples)))
    return [min(99, int(100 * stretch.max())) for stretch in stretches]


def aligned(text: str, transcript: str) -> list[list[str]]:
    """[operation, words of the text, words of the transcript] by stretches of words, normalised as for the WER.

    Operations are jiwer's: equal, substitute, delete (not in the transcript), insert (not in the text).
    """
    import jiwer

    from pcg.metrics.asr import normalise

    reference, hypothesis = normalise(text).split(), normalise(transcript).split()
    if not reference:
        return [["insert", "", " ".join(hypothesis)]] if hypothesis else []
    return [
        [
            part.type,
            " ".join(reference[part.ref_start_idx : part.ref_end_idx]),
            " ".join(hypothesis[part.hyp_start_idx : part.hyp_end_idx]),
        ]
        for part in jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]
    ]
