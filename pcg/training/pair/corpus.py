"""The training corpus: generated sentences spoken by hibari-tts in several voices, as parquet shards.

Resampling turns hibari's one voice into many speakers: audio that is synthesised at pace ``1 / scale`` and played
``scale`` times faster has the original pace, with pitch and formants scaled by ``scale``.
"""

from __future__ import annotations

import io
import itertools
import logging
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import soundfile
import soxr

from pcg.constraints import FROM_0, FROM_1
from pcg.data.bundled import Bundled
from pcg.training.pair.texts import sentences, short_lines
from pcg.training.shards import shard_path, write_shard

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
_LEAD, _TRAIL, _SILENCE = 0.08, 0.16, 0.01  # seconds kept before and after speech; its amplitude threshold


_TEXTS = {"sentences": sentences, "lines": short_lines}


def bundled_texts() -> set[str]:
    """Texts of the bundled test set and of its voice prompts, which the corpus must not contain."""
    data = Bundled()
    return {text for utterance in data for text in (utterance.text, utterance.prompt_text)}


def speaker_name(scale: float) -> str:
    """``0.88 -> "s088"``."""
    return f"s{round(scale * 100):03d}"


def trim(audio: np.ndarray) -> np.ndarray:
    """Cuts silence to ``_LEAD`` seconds before and ``_TRAIL`` seconds after the speech."""
    loud = np.flatnonzero(np.abs(audio) > _SILENCE)
    if not len(loud):
        return audio
    return audio[max(0, loud[0] - int(_LEAD * SAMPLE_RATE)) : loud[-1] + int(_TRAIL * SAMPLE_RATE)]


class Speaker:
    """hibari's voice at any scale, at 16 kHz."""

    def __init__(self) -> None:
        from hibari import Hibari  # an extra that only this stage needs

        self._tts = Hibari(threads=1)

    def phonemes(self, text: str) -> str:
        return " ".join(self._tts.phonemize(text))

    def say(self, text: str, scale: float, seed: int) -> np.ndarray:
        """Speaks the text; returns float32 samples at 16 kHz, with silence trimmed."""
        audio = self._tts(text, speed=1 / scale, seed=seed)
        return trim(soxr.resample(audio, 24_000 * scale, SAMPLE_RATE).astype(np.float32))


def flac(audio: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


@dataclass(frozen=True)
class Corpus:
    """Writes ``utterances`` spoken sentences to ``folder/{heldout,train}-NNNN.parquet``.

    The first ``heldout`` sentences are held out; the training speakers speak them, and one more speaker of scale
    ``heldout_scale``. Existing shards are kept. Sentences of the bundled test set are left out too, so that a second
    corpus can train the same models further.

    Args:
        folder: of the shards.
        texts: ``sentences``, or ``lines`` of one to four words: models trained on long sentences alone fail at "Yes."
        utterances: number of training sentences.
        heldout: number of sentences that are held out.
        scales: pitch and formant scale of each training speaker.
        heldout_scale: scale of the held-out speaker.
        seed: of sentences, speakers and synthesis noise.
        shard_size: sentences in a shard.
        workers: number of processes.
    """

    folder: str
    texts: Literal["sentences", "lines"]
    utterances: Annotated[int, FROM_1]
    heldout: Annotated[int, FROM_0]
    scales: list[float]
    heldout_scale: float
    seed: int
    shard_size: Annotated[int, FROM_1]
    workers: Annotated[int, FROM_1]

    def run(self) -> None:
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        stream = _TEXTS[self.texts](self.seed)
        jobs = [
            ("heldout", i, list(itertools.islice(stream, self.shard_size))) for i in range(self._shards(self.heldout))
        ]
        apart = {text for _, _, texts in jobs for text in texts} | bundled_texts()
        fresh = (text for text in stream if text not in apart)
        jobs += [
            ("train", i, list(itertools.islice(fresh, self.shard_size))) for i in range(self._shards(self.utterances))
        ]
        todo = [job for job in jobs if not shard_path(self.folder, *job[:2]).exists()]
        log.info("corpus: %d of %d shards to speak", len(todo), len(jobs))
        with multiprocessing.get_context("spawn").Pool(self.workers) as pool:
            for done, path in enumerate(pool.imap_unordered(self._speak, todo), 1):
                log.info("corpus: %d/%d %s", done, len(todo), path)

    def _shards(self, count: int) -> int:
        return -(-count // self.shard_size)

    def _speak(self, job: tuple[str, int, list[str]]) -> str:
        split, shard, texts = job
        speaker, rows = Speaker(), []
        scales = [*self.scales, self.heldout_scale] if split == "heldout" else self.scales
        for i, text in enumerate(texts):
            utterance = f"{split}-{shard:04d}-{i:04d}"
            rng = random.Random(f"{self.seed} {utterance}")
            scale = rng.choice(scales)
            audio = speaker.say(text, scale, rng.getrandbits(32))
            row: dict[str, Any] = {"id": utterance, "text": text, "phonemes": speaker.phonemes(text)}
            rows.append(
                row | {"speaker": speaker_name(scale), "seconds": len(audio) / SAMPLE_RATE, "audio": flac(audio)}
            )
        path = shard_path(self.folder, split, shard)
        write_shard(path, rows)
        return str(path)
