"""``pcg speak``: says a text, and writes the audio while tokens are decoded, sentence by sentence."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from jaxtyping import Int
from torch import Tensor

from pcg import constraints
from pcg.config import run as runs
from pcg.config.build import build
from pcg.config.validate import check as check_run
from pcg.config.validate import refuse
from pcg.constraints import Constraint
from pcg.decoding.rows import Prompt
from pcg.decoding.stream import Stream
from pcg.decoding.voice import voice_tokens
from pcg.interfaces import Codec
from pcg.runner.composition import with_decoder
from pcg.runner.scores import to_pcm
from pcg.types import Audio, Utterance

_TEXT = {"text": str, "voice": str | None, "voice_text": str}
_KEYS = {**_TEXT, "out": Annotated[str, Constraint(lambda out: bool(out.strip()), "a file, or -")], "compare": bool}
_WARM_UP = 8  # tokens
_PIPED = 0xFFFFFFFF  # stands in the header of a WAV whose size is not known yet


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists what is wrong with the config of conf/speak.yaml, the text among it."""
    problems = constraints.problems(config, _KEYS)
    if not problems:
        try:
            build(_dataset_of(config))
        except ValueError as error:
            problems.append(str(error))
    if config.get("codec") is None or config["codec"].get("_target_") is None:
        problems.append("codec is required: pcg speak codec=NAME; without one there is no audio")
    refuse(problems, lambda: check_run(_run_of(config)))


def say(config: Mapping[str, Any]) -> None:
    """Say the text of conf/speak.yaml, write it to ``out``, and print one line about it.

    Raises:
        ConfigError: everything that is wrong with the config.
    """
    check(config)
    torch.set_num_threads(config["threads"])
    run = runs.parse(_run_of(config), fetch=True)
    composition, decoder = with_decoder(run)
    codec, end = composition.codec, composition.target.end
    assert codec is not None
    speaker = Speaker(decoder, codec, end, run.decoding.max_tokens, run.decoding.chunk)
    with Wav(config["out"], codec.sample_rate) as wav:
        figures = speaker.say(list(composition.dataset), wav.write, config["compare"])
    print(_line(figures, config["out"]), file=sys.stderr if config["out"] == "-" else sys.stdout)


def _run_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the run that says the text."""
    kept = {key: value for key, value in config.items() if key not in _KEYS}
    return {**kept, "study": "speak", "dataset": _dataset_of(config), "metrics": {}, "logger": None, "max_failures": 0}


def _dataset_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"_target_": "pcg.data.spoken.Spoken", **{key: config[key] for key in _TEXT}}


@dataclass
class Figures:
    """Seconds and tokens of a text that was said.

    Attributes:
        first_audio: seconds until the first audio.
        seconds: from the first pass to the last sample, without writing.
        decode_seconds, tokens: of the method; ``alone_seconds``, ``alone_tokens``: of the target alone. With
            ``compare``.
        cut: sentences that reached ``decoding.max_tokens``.
    """

    audio_seconds: float = 0.0
    first_audio: float | None = None
    seconds: float = 0.0
    decode_seconds: float = 0.0
    tokens: int = 0
    alone_seconds: float = 0.0
    alone_tokens: int = 0
    cut: int = 0

    @property
    def speedup(self) -> float | None:
        """Seconds a token of the target alone over those of the method, both with prefill."""
        if not self.alone_tokens or not self.tokens:
            return None
        return (self.alone_seconds / self.alone_tokens) / (self.decode_seconds / self.tokens)


@dataclass(frozen=True)
class Speaker:
    """Says sentences with a decoder, and a codec that decodes ``chunk`` tokens at a time.

    Attributes:
        decoder: our own loop, which takes a ``listener``.
        audio_tokens: how many the models have.
    """

    decoder: Any
    codec: Codec
    audio_tokens: int
    max_tokens: int
    chunk: int
    now: Callable[[], float] = field(default=time.perf_counter)

    def say(self, utterances: Sequence[Utterance], write: Callable[[Audio], None], compare: bool = False) -> Figures:
        """Say one utterance after another. Where they have no voice, the first one is the voice prompt of the others.

        Args:
            write: gets each piece of audio when it is made.
        """
        figures, voice = Figures(), None
        voice_prompt = voice_tokens(utterances[0], self.codec, self.audio_tokens)
        self.decoder.decode([Prompt(utterances[0], voice_prompt)], _WARM_UP)
        for utterance in utterances:
            speech = voice_prompt
            if voice is not None:
                utterance, speech = replace(utterance, prompt_text=voice[0]), voice[1]
            tokens = self._say_one(Prompt(utterance, speech), write, figures, compare)
            if voice_prompt is None and voice is None and len(tokens):
                voice = utterance.text, tokens
        return figures

    def _say_one(
        self, prompt: Prompt, write: Callable[[Audio], None], figures: Figures, compare: bool
    ) -> Int[Tensor, "length"]:
        """Say one utterance and add to the figures; returns its tokens."""
        began, writing = self.now(), 0.0
        stream = Stream(self.codec, prompt.speech, self.chunk)

        def play(samples: Any) -> None:
            nonlocal writing
            if not len(samples):
                return
            at = self.now()
            if figures.first_audio is None:
                figures.first_audio = at - began
            figures.audio_seconds += len(samples) / self.codec.sample_rate
            write(Audio(samples, self.codec.sample_rate))
            writing += self.now() - at

        decoded = self.decoder.decode([prompt], self.max_tokens, listener=lambda _, tokens: play(stream.feed(tokens)))
        play(stream.finish())
        figures.seconds += self.now() - began - writing
        [generation] = decoded.generations
        figures.cut += not generation.finished
        if compare:
            before = self.now()
            figures.tokens += self.decoder.decode([prompt], self.max_tokens).emitted
            middle = self.now()
            figures.alone_tokens += self.decoder.decode([prompt], self.max_tokens, alone=True).emitted
            figures.decode_seconds += middle - before
            figures.alone_seconds += self.now() - middle
        return generation.tokens


class Wav:
    """A 16-bit WAV file that is written piece by piece; ``-`` is standard output, with no size in the header."""

    def __init__(self, out: str, sample_rate: int) -> None:
        self._out, self._rate, self._bytes = out, sample_rate, 0

    def __enter__(self) -> Wav:
        self._file: BinaryIO = sys.stdout.buffer if self._out == "-" else Path(self._out).expanduser().open("wb")
        self._file.write(_header(self._rate, _PIPED if self._out == "-" else 0))
        return self

    def write(self, audio: Audio) -> None:
        data = to_pcm(audio).astype("<i2").tobytes()
        self._bytes += len(data)
        self._file.write(data)
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        if self._out == "-":
            return
        self._file.seek(0)
        self._file.write(_header(self._rate, self._bytes))
        self._file.close()


def _header(rate: int, size: int) -> bytes:
    """The header of 16-bit mono samples of ``size`` bytes."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", min(size + 36, _PIPED), b"WAVE") + form + struct.pack("<4sI", b"data", size)


def _line(figures: Figures, out: str) -> str:
    where = "" if out == "-" else f" in {out}"
    if figures.first_audio is None:
        return f"No audio: the model ended before it said anything{where}"
    parts = [f"first audio after {figures.first_audio:.2f} s", f"RTF {figures.seconds / figures.audio_seconds:.2f}"]
    if figures.speedup is not None:
        parts.append(f"{figures.speedup:.2f}x the target alone")
    if figures.cut:
        parts.append(f"{figures.cut} sentence(s) cut at decoding.max_tokens")
    return f"{figures.audio_seconds:.2f} s of audio{where}: {', '.join(parts)}"
