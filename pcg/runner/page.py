"""A study's listening page: one static file that needs no server, beside the runs whose audio it plays.

``page.html`` is the page without data; the data is put into it as JSON. Audio is referred to by relative paths, so a
study's folder may be moved as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pcg.runner import store
from pcg.runner.batch import read_wav
from pcg.runner.records import write_atomically
from pcg.types import Result

SHOWN = 50  # utterances on the page, the first of the study; it says of how many
_PEAKS = 300  # points of a waveform
_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = "/*DATA*/"


def write(results: Sequence[Result], labels: Sequence[str], folder: Path) -> Path:
    """Write ``index.html`` into the study's report folder.

    Args:
        labels: what each run is called.
    """
    text = json.dumps(content(results, labels, folder), ensure_ascii=False, separators=(",", ":"))
    page = _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, text.replace("<", "\\u003c"))
    write_atomically(folder / "index.html", page)
    return folder / "index.html"


def content(results: Sequence[Result], labels: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the page shows: utterances in the dataset's order, each with one clip a run, in the table's order."""
    tables = [store.read_utterances(Path(result.folder)) for result in results]
    known = {row["utterance"]: row for table in tables for row in table}
    shown: dict[str, dict[str, Any]] = {
        name: {"id": name, "text": known[name]["text"], "speaker": known[name]["speaker"], "clips": []}
        for name in list(known)[:SHOWN]
    }
    for method, (result, table) in enumerate(zip(results, tables, strict=True)):
        for row in table:
            if row["utterance"] in shown:
                shown[row["utterance"]]["clips"].append(_clip(method, row, Path(result.folder), folder))
    return {
        "study": results[0].values["study"],
        "methods": list(labels),
        "total": len(known),
        "utterances": list(shown.values()),
    }


def _clip(method: int, row: dict[str, Any], run: Path, folder: Path) -> dict[str, Any]:
    """One run's reading of an utterance; of one that failed, the reason."""
    if row["error"] is not None:
        return {"method": method, "error": row["error"]}
    transcript = row.get("transcript")
    return {
        "method": method,
        "src": Path(os.path.relpath(run / row["audio"], folder)).as_posix(),
        "seconds": row["audio_seconds"],
        "tokens": row["tokens"],
        "kinds": "".join(kind[0] for kind in row["kinds"]),  # exact, group, recovered, bonus, plain
        "peaks": _peaks(run / row["audio"]),
        "wer": row["word_errors"] / row["words"] if row.get("words") and "word_errors" in row else None,
        "words": None if transcript is None else aligned(row["text"], transcript),
    }


def _peaks(path: Path) -> list[int]:
    """The loudest sample of each of up to 300 stretches, 0 to 99."""
    samples = np.abs(read_wav(path).samples)
    if not len(samples):
        return []
    stretches = np.array_split(samples, min(_PEAKS, len(samples)))
    return [min(99, int(100 * stretch.max())) for stretch in stretches]


def aligned(text: str, transcript: str) -> list[list[str]]:
    """[operation, said, heard] by stretches of words, normalised as for the WER.

    Operations are jiwer's: equal, substitute, delete (not heard), insert (heard, not said).
    """
    import jiwer

    from pcg.metrics.asr import normalise

    said, heard = normalise(text).split(), normalise(transcript).split()
    if not said:
        return [["insert", "", " ".join(heard)]] if heard else []
    return [
        [
            part.type,
            " ".join(said[part.ref_start_idx : part.ref_end_idx]),
            " ".join(heard[part.hyp_start_idx : part.hyp_end_idx]),
        ]
        for part in jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]
    ]
