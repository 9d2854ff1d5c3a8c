"""Chooses the bundled test set from the held-out sentences of the corpus."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pcg.constraints import FROM_1
from pcg.data.stored import ParquetRows
from pcg.training.pair.texts import clauses
from pcg.training.shards import write_shard

log = logging.getLogger(__name__)

_SECONDS, _WORDS = (3.0, 6.0), (6, 16)  # of a test sentence
_PROMPT_SECONDS = (2.0, 3.2)
_CLAUSE_EVERY = 3  # one sentence in so many is a public-domain clause, the others are of our grammar

Row = dict[str, Any]


@dataclass(frozen=True)
class Heldout:
    """Writes ``folder/utterances.parquet`` and ``folder/voices.parquet`` (see ``pcg.data.bundled``).

    Consecutive sentences have different speakers, so that the first N are balanced for every N; a speaker's sentences
    use that speaker's voice prompts in turn. No voice prompt is a test sentence.

    Args:
        corpus: folder of ``heldout-NNNN.parquet`` (``pcg.training.pair.corpus``).
        folder: of the test set.
        utterances: number of test sentences.
        voices: number of voice prompts of each speaker.
        seed: of the choice.
    """

    corpus: str
    folder: str
    utterances: Annotated[int, FROM_1]
    voices: Annotated[int, FROM_1]
    seed: int

    def run(self) -> None:
        shards = sorted(Path(self.corpus).glob("heldout-*.parquet"))
        if not shards:
            raise FileNotFoundError(f"no heldout-*.parquet in {self.corpus}: make it first (pcg train trainer=corpus)")
        source = ParquetRows(shards)
        chosen, prompts = self.choose(list(source.remove_columns("audio")))
        audio = {row["id"]: row["audio"] for row in source.select_columns(["id", "audio"])}
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        for name, rows in [("utterances", chosen), ("voices", prompts)]:
            path = Path(self.folder) / f"{name}.parquet"
            write_shard(path, [row | {"audio": audio[row["id"]]} for row in rows])
            log.info("heldout: %d rows, %.1f MB in %s", len(rows), path.stat().st_size / 1e6, path)

    def choose(self, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
        """Test sentences (id, text, speaker, prompt_id) and voice prompts (id, text, speaker).

        Raises:
            ValueError: a speaker has too few suitable sentences.
        """
        verses, by_speaker = set(clauses()), defaultdict(list)
        for row in sorted(rows, key=lambda row: row["id"]):
            by_speaker[row["speaker"]].append(row)
        speakers = sorted(by_speaker)
        random.Random(self.seed).shuffle(speakers)
        chosen, prompts, kinds = [], {}, {}
        for speaker, spoken in by_speaker.items():
            random.Random(f"{self.seed} {speaker}").shuffle(spoken)
            prompts[speaker] = [row for row in spoken if _within(row["seconds"], _PROMPT_SECONDS)][: self.voices]
            rest = [row for row in spoken if row not in prompts[speaker] and _is_test(row)]
            kinds[speaker] = {k: [row for row in rest if (row["text"] in verses) == k] for k in (False, True)}
        for index in range(self.utterances):
            turn, of_turn = divmod(index, len(speakers))
            speaker = speakers[of_turn]
            candidates = kinds[speaker][(turn + of_turn) % _CLAUSE_EVERY == 0]
            if not candidates or len(prompts[speaker]) < self.voices:
                raise ValueError(f"speaker {speaker} has too few suitable sentences; raise heldout of trainer=corpus")
            prompt = prompts[speaker][turn % self.voices]
            chosen.append(_fields(candidates.pop()) | {"prompt_id": prompt["id"]})
        return chosen, [_fields(row) for speaker in sorted(prompts) for row in prompts[speaker]]


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _is_test(row: Row) -> bool:
    return _within(row["seconds"], _SECONDS) and _within(len(row["text"].split()), _WORDS)


def _fields(row: Row) -> Row:
    return {name: row[name] for name in ("id", "text", "speaker")}
