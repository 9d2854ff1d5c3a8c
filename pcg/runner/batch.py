"""One batch of utterances, from text to a finished record: decode both ways, speak, score.

A record is what ``batches.jsonl`` holds of a batch::

    batch, at, wall              index; when it began (UTC); seconds since the run's last record, all work included
    tokens, seconds, calls       emitted tokens, decode seconds and model passes of the batch as a whole
    cpu_seconds                  as seconds, by the processor's clock; null where that does not count all of the work
    baseline_tokens, _seconds, _calls, _cpu_seconds     the same of the target alone; null where it was not decoded
    counters                     what an engine itself has counted; null of our own loop
    rows                         one an utterance: see ``_row``
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

from pcg.config.settings import Node
from pcg.decoding.decoder import Decoded, Decoder
from pcg.decoding.rows import Prompt
from pcg.decoding.stream import Stream, waits
from pcg.decoding.voice import voice_tokens
from pcg.interfaces import Codec, Metric
from pcg.names import marked, within
from pcg.results import lock
from pcg.results.environment import memory_advice
from pcg.runner.composition import Composition
from pcg.runner.groups import mean_sizes
from pcg.runner.scores import ScoreMemo, Scores, to_pcm
from pcg.types import Audio, Generation, Utterance

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchRunner:
    """Decodes and scores batches of one run.

    Attributes:
        chunk: tokens that a listener gets at once.
        baseline: whether the target is decoded alone too.
        metrics: what scores each batch; none where all are scored afterwards.
        metric_nodes: the metrics' configs, by which scores are remembered.
        folder: where ``audio/`` goes, or without a codec ``tokens/``.
        turns: a file whose lock a process holds while it decodes, so that no other of this machine does; None where
            all may at once.
    """

    parts: Composition[Any]
    decoder: Decoder
    max_tokens: int
    chunk: int
    baseline: bool
    metrics: Mapping[str, Metric]
    memo: ScoreMemo
    metric_nodes: Mapping[str, Node]
    folder: Path
    turns: Path | None = None

    @cached_property
    def _group_sizes(self) -> Float[Tensor, "vocab"] | None:
        return mean_sizes(self.parts.rule)

    def warm_up(self, utterances: Sequence[Utterance], tokens: int = 24) -> None:
        """Decode a few tokens both ways and throw them away: first passes pay for allocation and compilation."""
        prompts = [self._prompt(utterance) for utterance in utterances]
        for alone in {False, self.baseline}:
            self.decoder.decode(prompts, tokens, alone)

    def run(self, index: int, utterances: Sequence[Utterance]) -> dict[str, Any]:
        """The record of a batch. An utterance that fails is tried alone, and recorded with its reason."""
        try:
            return self._run(index, utterances)
        except Exception as error:
            if len(utterances) == 1:
                log.warning("utterance %s failed: %s", utterances[0].id, _reason(error))
                log.debug("where utterance %s failed", utterances[0].id, exc_info=True)
                return _failed(utterances[0], error)
        return _joined([self.run(index, [utterance]) for utterance in utterances])

    def _run(self, index: int, utterances: Sequence[Utterance]) -> dict[str, Any]:
        prompts = [self._prompt(utterance) for utterance in utterances]
        own: Decoded | None = None
        alone: Decoded | None = None
        with lock.turn(self.turns):
            for turn in (False, True) if index % 2 else (True, False):  # neither is always the first
                if turn:
                    own = self.decoder.decode(prompts, self.max_tokens)
                elif self.baseline:
                    alone = self.decoder.decode(prompts, self.max_tokens, alone=True)
        assert own is not None
        audio, scores = self._speak_and_score(prompts, own.generations)
        baseline_scores: list[Scores] = [{} for _ in prompts]
        if alone is not None:
            baseline_audio, baseline_scores = self._speak_and_score(prompts, alone.generations)
            self._write(prompts, alone.generations, baseline_audio, baseline_of)
        self._write(prompts, own.generations, audio)
        told = [self._waits(place, item, own, alone) for place, item in enumerate(prompts)]
        rows = [
            {**_row(item.utterance, generation, self._group_sizes, clip, score, baseline), **waited}
            for item, generation, clip, score, baseline, waited in zip(
                prompts, own.generations, audio, scores, baseline_scores, told, strict=True
            )
        ]
        return {**_timing("", own), **_timing("baseline_", alone), "counters": own.counters, "rows": rows}

    def _prompt(self, utterance: Utterance) -> Prompt:
        return Prompt(utterance, voice_tokens(utterance, self.parts.codec, self.parts.target.end))

    def _waits(self, place: int, item: Prompt, own: Decoded, alone: Decoded | None) -> dict[str, float | None]:
        """What a listener to the row at ``place`` would have waited, for the method and for the target alone.

        None where there is no audio, or where nobody noted when tokens were known. The codec is timed on the first
        piece, whose size all but the last have.
        """
        found: dict[str, float | None] = {}
        codec, tokens = self.parts.codec, own.generations[place].tokens.tolist()
        piece_seconds = 0.0
        if codec is not None and own.known is not None and tokens:
            stream = Stream(codec, item.speech, self.chunk)
            began = time.perf_counter()
            if not len(stream.feed(tokens[: stream.chunk])):
                stream.finish()
            piece_seconds = time.perf_counter() - began
        for prefix, decoded in (("", own), ("baseline_", alone)):
            known = decoded.known[place] if decoded is not None and decoded.known is not None else []
            first: float | None = None
            worst: float | None = None
            if known and piece_seconds and codec is not None:
                token_seconds = codec.hop / codec.sample_rate / codec.frame
                first, worst = waits(known, stream.chunk, stream.ahead, token_seconds, piece_seconds)
            found |= {f"{prefix}first_audio_seconds": first, f"{prefix}worst_gap_seconds": worst}
        return found

    def _speak_and_score(
        self, prompts: Sequence[Prompt], generations: Sequence[Generation]
    ) -> tuple[list[Audio | None], list[Scores]]:
        """Without a codec neither audio nor scores, of which each column is then there and None."""
        if self.parts.codec is None:
            columns = {figure.columns[0] for metric in self.metrics.values() for figure in metric.figures.values()}
            return [None] * len(prompts), [dict.fromkeys(columns) for _ in prompts]
        audio = [
            self._speak(item, generation, self.parts.codec)
            for item, generation in zip(prompts, generations, strict=True)
        ]
        said = [item.utterance for item in prompts]
        return list(audio), self.memo.score(self.metrics, self.metric_nodes, audio, said)

    def _speak(self, item: Prompt, generation: Generation, codec: Codec) -> Audio:
        """Decode prompt and generation together, so that the voice carries over, and cut the prompt off (as LLaSA)."""
        tokens, skip = generation.tokens.cpu(), 0
        if item.speech is not None:
            skip = len(item.speech) // codec.frame * codec.hop
            tokens = torch.cat([item.speech.cpu(), tokens])
        whole = codec.decode([tokens])[0]
        return Audio(np.asarray(whole.samples)[skip:], whole.sample_rate)

    def _write(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        audio: Sequence[Audio | None],
        place: Callable[[str], str] = str,
    ) -> None:
        """What was spoken; what was not is written as tokens, for a vocoder of the user's own."""
        for item, generation, clip in zip(prompts, generations, audio, strict=True):
            if clip is not None:
                write_wav(self.folder / place(wav_name(item.utterance)), clip)
            else:
                write_tokens(self.folder / place(tokens_name(item.utterance)), generation.tokens)


def wav_name(utterance: Utterance) -> str:
    """Where an utterance's audio lies in the run's folder: two ids never share a file."""
    return f"audio/{_file_name(utterance)}.wav"


def tokens_name(utterance: Utterance) -> str:
    """Where an utterance's speech tokens lie in the folder of a run without a codec."""
    return f"tokens/{_file_name(utterance)}.npy"


def _file_name(utterance: Utterance) -> str:
    """Of an id that no file may be called, on whatever file system, the name holds what may stay, and a digest."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in utterance.id)
    may_stay = name == utterance.id.casefold() and not name.startswith((".", "-"))
    return within(name, 89) if may_stay else marked(name, 89, utterance.id)


def baseline_of(file: str) -> str:
    """Where the target alone says what ``file`` says; there is no such file where it was not decoded."""
    return f"baseline_{file}"


def write_wav(path: Path, audio: Audio) -> None:
    """16-bit PCM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, to_pcm(audio), audio.sample_rate, subtype="PCM_16")


def write_tokens(path: Path, tokens: Int[Tensor, "length"]) -> None:
    """int64, of the shape [tokens]: the codec's codes, without end-of-speech."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, tokens.cpu().numpy().astype(np.int64), allow_pickle=False)


def read_wav(path: Path) -> Audio:
    samples, sample_rate = soundfile.read(path, dtype="float32")
    return Audio(samples, sample_rate)


def _row(
    utterance: Utterance,
    generation: Generation,
    group_sizes: Float[Tensor, "vocab"] | None,
    audio: Audio | None,
    scores: Scores,
    baseline_scores: Scores,
) -> dict[str, Any]:
    """Lists have an item a token; ``group_sizes`` (``mean_sizes``) is empty without groups, probabilities without a
    rule; without a codec there is ``tokens_file`` and no audio."""
    sizes = [] if group_sizes is None else group_sizes[generation.tokens.cpu()].tolist()
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
        **_spoken(utterance, audio),
        "scores": scores,
        "baseline_scores": baseline_scores,
    }


def _spoken(utterance: Utterance, audio: Audio | None) -> dict[str, Any]:
    if audio is None:
        return {"audio": None, "audio_seconds": None, "tokens_file": tokens_name(utterance)}
    return {"audio": wav_name(utterance), "audio_seconds": audio.seconds}


def _timing(prefix: str, decoded: Decoded | None) -> dict[str, Any]:
    return {
        f"{prefix}tokens": decoded and decoded.emitted,
        f"{prefix}seconds": decoded and dict(decoded.seconds),
        f"{prefix}calls": decoded and dict(decoded.calls),
        f"{prefix}cpu_seconds": decoded and decoded.cpu_seconds and dict(decoded.cpu_seconds),
    }


def _failed(utterance: Utterance, error: Exception) -> dict[str, Any]:
    row = {"utterance": utterance.id, "text": utterance.text, "speaker": utterance.speaker, "error": _reason(error)}
    return {**_timing("", None), **_timing("baseline_", None), "counters": None, "rows": [row]}


def failed_batch(utterances: Sequence[Utterance], error: Exception) -> dict[str, Any]:
    """The record of a batch that ended the process that decoded it."""
    return _joined([_failed(utterance, error) for utterance in utterances])


def _joined(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of the same batch decoded one utterance at a time."""
    whole: dict[str, Any] = {"rows": [row for record in records for row in record["rows"]]}
    good = [record for record in records if record["seconds"]]
    for prefix in ("", "baseline_"):
        timed = [record for record in good if record[f"{prefix}seconds"]]
        whole[f"{prefix}tokens"] = sum(record[f"{prefix}tokens"] for record in timed) if timed else None
        for what in ("seconds", "calls", "cpu_seconds"):
            parts = timed[0][f"{prefix}{what}"] or {} if timed else {}
            whole[f"{prefix}{what}"] = {
                part: sum(record[f"{prefix}{what}"][part] for record in timed) for part in parts
            } or None
    counted = [record["counters"] for record in good if record["counters"]]
    whole["counters"] = {key: sum(each[key] for each in counted) for key in counted[0]} if counted else None
    return whole


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500] + memory_advice(error)
