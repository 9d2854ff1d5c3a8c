"""One batch of utterances, from text to a finished record: decode, make audio, score.

A record is what ``batches.jsonl`` holds of a batch::

    batch, at, wall              index; when it began (UTC); seconds since the run's last record, all work included
    tokens, seconds, calls       emitted tokens, decode seconds and model passes of the batch as a whole
    cpu_seconds                  as seconds, by the processor's clock; null where that does not count all of the work
    baseline_tokens, _seconds, _calls, _cpu_seconds     the same of the target alone; null where it was not decoded
    counters                     what an engine itself has counted; null of our own loop
    rows                         one an utterance: see ``BatchRunner._row``
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.config.run import Run
from pcg.decoding.decoder import Decoded, Decoder
from pcg.decoding.rows import Prompt
from pcg.decoding.stream import Stream, waits
from pcg.decoding.voice import voice_tokens
from pcg.files import marked, within
from pcg.interfaces import Codec, Metric
from pcg.results import lock
from pcg.results.environment import memory_advice
from pcg.runner.composition import Composition
from pcg.runner.groups import mean_sizes
from pcg.runner.scores import ScoreMemo, Scores, to_pcm
from pcg.types import Audio, Generation, Utterance

log = logging.getLogger(__name__)
_WARM_UP_TOKENS = 24


@dataclass(frozen=True)
class BatchRunner:
    """Decodes and scores batches of one run.

    Attributes:
        folder: of the run. Audio is written into it, or without a codec tokens.
    """

    run: Run
    composition: Composition[Any]
    decoder: Decoder
    folder: Path
    memo: ScoreMemo

    @cached_property
    def _group_sizes(self) -> Float[Tensor, "vocab"] | None:
        return mean_sizes(self.composition.rule)

    @property
    def _metrics(self) -> Mapping[str, Metric]:
        """The metrics that score each batch; none where all are scored after decoding."""
        return self.composition.metrics if self.run.settings.scored_inline else {}

    @property
    def _decodes_baseline(self) -> bool:
        return self.run.decoding.baseline and self.run.draft is not None and self.run.engine is None

    def warm_up(self, utterances: Sequence[Utterance]) -> None:
        """Decode a few tokens both ways and throw them away: first passes pay for allocation and compilation."""
        prompts = [self._prompt(utterance) for utterance in utterances]
        for alone in {False, self._decodes_baseline}:
            self.decoder.decode(prompts, _WARM_UP_TOKENS, alone)

    def record(self, index: int, utterances: Sequence[Utterance]) -> dict[str, Any]:
        """Decode and score a batch; returns its record.

        Where a batch fails its utterances are tried one by one, and those that fail are recorded with the reason.
        """
        try:
            return self._record(index, utterances)
        except Exception as error:
            if len(utterances) == 1:
                log.warning("utterance %s failed: %s", utterances[0].id, _reason(error))
                log.debug("where utterance %s failed", utterances[0].id, exc_info=True)
                return failed_batch(utterances, error)
        return _joined([self.record(index, [utterance]) for utterance in utterances])

    def _record(self, index: int, utterances: Sequence[Utterance]) -> dict[str, Any]:
        prompts = [self._prompt(utterance) for utterance in utterances]
        own, alone = self._decode(index, prompts)
        clips, scores = self._speak_and_score(prompts, own.generations, str)
        baseline_scores: list[Scores] = [{} for _ in prompts]
        if alone is not None:
            _, baseline_scores = self._speak_and_score(prompts, alone.generations, baseline_of)
        rows = [
            self._row(prompt, own.generations[place], clips[place])
            | {"scores": scores[place], "baseline_scores": baseline_scores[place]}
            | self._waits(place, prompt, own, alone)
            for place, prompt in enumerate(prompts)
        ]
        return {**_timing("", own), **_timing("baseline_", alone), "counters": own.counters, "rows": rows}

    def _decode(self, index: int, prompts: Sequence[Prompt]) -> tuple[Decoded, Decoded | None]:
        """Decode by the method and, where the run has a baseline, with the target alone; each is first in turn."""
        decoded: dict[bool, Decoded] = {}
        sides = [False, True] if self._decodes_baseline else [False]
        with lock.turn(self.folder / ".decoding" if self.run.takes_turns else None):
            for alone in reversed(sides) if index % 2 else sides:
                decoded[alone] = self.decoder.decode(prompts, self.run.decoding.max_tokens, alone)
        return decoded[False], decoded.get(True)

    def _prompt(self, utterance: Utterance) -> Prompt:
        return Prompt(utterance, voice_tokens(utterance, self.composition.codec, self.composition.target.end))

    def _row(self, prompt: Prompt, generation: Generation, clip: Audio | None) -> dict[str, Any]:
        """What the record says of an utterance; lists have an item a token.

        ``group_sizes`` (``mean_sizes``) is empty without groups, probabilities are empty without a rule. Without a
        codec there is ``tokens_file`` and no audio.
        """
        sizes = [] if self._group_sizes is None else self._group_sizes[generation.tokens.cpu()].tolist()
        utterance = prompt.utterance
        files: dict[str, Any] = {"audio": None, "audio_seconds": None, "tokens_file": tokens_name(utterance)}
        if clip is not None:
            files = {"audio": wav_name(utterance), "audio_seconds": clip.seconds}
        return {
            "utterance": utterance.id,
            "text": utterance.text,
            "speaker": utterance.speaker,
            "error": None,
            "finished": generation.finished,
            "tokens": generation.tokens.tolist(),
            "kinds": list(generation.kinds),
            "group_sizes": [round(size, 1) for size in sizes],
            "target_probs": list(generation.target_probs),
            "draft_probs": list(generation.draft_probs),
            "counts": dict(generation.counts),
            "accepted_by_position": list(generation.accepted_by_position),
            "sums": dict(generation.sums),
            **files,
        }

    def _waits(self, place: int, prompt: Prompt, own: Decoded, alone: Decoded | None) -> dict[str, float | None]:
        """How long a listener to the row at ``place`` would have waited, for the method and for the target alone.

        None without audio, and without the times at which tokens were known. The codec is timed on the first piece; all
        pieces but the last have its size.
        """
        codec, tokens = self.composition.codec, own.generations[place].tokens.tolist()
        seconds: dict[str, float | None] = {}
        stream, piece_seconds = None, 0.0
        if codec is not None and own.arrivals is not None and tokens:
            stream = Stream(codec, prompt.speech, self.run.decoding.chunk)
            began = time.perf_counter()
            if not len(stream.feed(tokens[: stream.chunk])):
                stream.finish()
            piece_seconds = time.perf_counter() - began
        for prefix, decoded in (("", own), ("baseline_", alone)):
            known = decoded.arrivals[place] if decoded is not None and decoded.arrivals is not None else []
            first: float | None = None
            worst: float | None = None
            if known and stream is not None and codec is not None:
                token_seconds = codec.hop / codec.sample_rate / codec.frame
                first, worst = waits(known, stream.chunk, stream.ahead, token_seconds, piece_seconds)
            seconds |= {f"{prefix}first_audio_seconds": first, f"{prefix}worst_gap_seconds": worst}
        return seconds

    def _speak_and_score(
        self, prompts: Sequence[Prompt], generations: Sequence[Generation], name: Callable[[str], str]
    ) -> tuple[Sequence[Audio | None], list[Scores]]:
        """Write each generation as audio and score it; without a codec write its tokens, and all scores are None.

        Args:
            name: of a file, from that of the method's.
        """
        codec, utterances = self.composition.codec, [prompt.utterance for prompt in prompts]
        if codec is None:
            for utterance, generation in zip(utterances, generations, strict=True):
                write_tokens(self.folder / name(tokens_name(utterance)), generation.tokens)
            columns = {figure.columns[0] for metric in self._metrics.values() for figure in metric.figures.values()}
            return [None] * len(prompts), [dict.fromkeys(columns) for _ in prompts]
        clips = [_speak(prompt, generation, codec) for prompt, generation in zip(prompts, generations, strict=True)]
        scores = self.memo.score(self._metrics, self.run.metrics, clips, utterances)
        for utterance, clip in zip(utterances, clips, strict=True):
            write_wav(self.folder / name(wav_name(utterance)), clip)
        return clips, scores


def _speak(prompt: Prompt, generation: Generation, codec: Codec) -> Audio:
    """Decode prompt and generation together, so that the voice carries over, and cut the prompt off (as LLaSA does)."""
    tokens, skip = generation.tokens.cpu(), 0
    if prompt.speech is not None:
        skip = len(prompt.speech) // codec.frame * codec.hop
        tokens = torch.cat([prompt.speech.cpu(), tokens])
    whole = codec.decode([tokens])[0]
    return Audio(np.asarray(whole.samples)[skip:], whole.sample_rate)


def wav_name(utterance: Utterance) -> str:
    """The file of an utterance's audio in the run's folder; two ids never share a file."""
    return f"audio/{_file_name(utterance)}.wav"


def tokens_name(utterance: Utterance) -> str:
    """The file of an utterance's speech tokens in the folder of a run without a codec."""
    return f"tokens/{_file_name(utterance)}.npy"


def _file_name(utterance: Utterance) -> str:
    """The utterance's id, or where not every file system takes it as a name, what it takes of it and a digest."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in utterance.id)
    may_stay = name == utterance.id.casefold() and not name.startswith((".", "-"))
    return within(name, 89) if may_stay else marked(name, 89, utterance.id)


def baseline_of(file: str) -> str:
    """The file of the target alone on the same prompt; there is none where it was not decoded."""
    return f"baseline_{file}"


def write_wav(path: Path, audio: Audio) -> None:
    """Write audio as 16-bit PCM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, to_pcm(audio), audio.sample_rate, subtype="PCM_16")


def write_tokens(path: Path, tokens: Int[Tensor, "length"]) -> None:
    """Write the codec's codes, without end-of-speech, as int64 of the shape [tokens]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, tokens.cpu().numpy().astype(np.int64), allow_pickle=False)


def read_wav(path: Path) -> Audio:
    samples, sample_rate = soundfile.read(path, dtype="float32")
    return Audio(samples, sample_rate)


def _timing(prefix: str, decoded: Decoded | None) -> dict[str, Any]:
    return {
        f"{prefix}tokens": decoded and decoded.emitted,
        f"{prefix}seconds": decoded and dict(decoded.seconds),
        f"{prefix}calls": decoded and dict(decoded.calls),
        f"{prefix}cpu_seconds": decoded and decoded.cpu_seconds and dict(decoded.cpu_seconds),
    }


def failed_batch(utterances: Sequence[Utterance], error: Exception) -> dict[str, Any]:
    """The record of a batch of which every utterance failed for this reason."""
    rows = [
        {"utterance": utterance.id, "text": utterance.text, "speaker": utterance.speaker, "error": _reason(error)}
        for utterance in utterances
    ]
    return {**_timing("", None), **_timing("baseline_", None), "counters": None, "rows": rows}


def _joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of a batch that was decoded one utterance at a time."""
    whole: dict[str, Any] = {"rows": [row for record in records for row in record["rows"]]}
    good = [record for record in records if record["seconds"]]
    for prefix in ("", "baseline_"):
        timed = [record for record in good if record[f"{prefix}seconds"]]
        whole[f"{prefix}tokens"] = sum(record[f"{prefix}tokens"] for record in timed) if timed else None
        for what in ("seconds", "calls", "cpu_seconds"):
            keys = timed[0][f"{prefix}{what}"] or {} if timed else {}
            whole[f"{prefix}{what}"] = {
                key: sum(record[f"{prefix}{what}"][key] for record in timed) for key in keys
            } or None
    counted = [record["counters"] for record in good if record["counters"]]
    whole["counters"] = {key: sum(counters[key] for counters in counted) for key in counted[0]} if counted else None
    return whole


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500] + memory_advice(error)
