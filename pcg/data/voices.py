"""A voice prompt for every utterance, chosen by rule: another utterance of the same speaker."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from pcg.data.audio import Recording, UnreadableAudio
from pcg.types import Utterance

log = logging.getLogger("pcg")


@dataclass(frozen=True)
class Clip:
    """A recorded utterance. Its audio is read when asked for and not kept.

    Attributes:
        read: the bytes of its WAV or FLAC file.
        source: what that file is called.
    """

    id: str
    speaker: str
    text: str
    read: Callable[[], bytes]
    source: str = "a recording"

    @cached_property
    def seconds(self) -> float:
        """Of its audio, decoded once to see that it is sound; NaN where it is not, which is told."""
        try:
            return self.recording().seconds
        except UnreadableAudio as error:
            log.warning("%s; it is nobody's voice prompt", error)
            return math.nan

    @property
    def recording(self) -> Recording:
        return Recording(self.read, self.source)


@dataclass(frozen=True)
class Voices:
    """Which clip is the voice prompt of which.

    The clips of a speaker are put in an order of the utterance's own, by a hash of the seed and both ids; the
    first that can be read, is long enough and not too long is the prompt. So a choice depends on the seed and on the
    speaker's clips, and on no other utterance, on no limit and on no order of reading.

    Attributes:
        shortest, longest: bounds of a prompt, in seconds.
    """

    shortest: float
    longest: float
    seed: int

    def choose(self, clip: Clip, of_speaker: Sequence[Clip]) -> Clip | None:
        """None where the speaker has no other clip within the bounds."""
        others = sorted(
            (other for other in of_speaker if other.id != clip.id), key=lambda other: self._rank(clip, other)
        )
        return next((other for other in others if self.shortest <= other.seconds <= self.longest), None)

    def _rank(self, clip: Clip, other: Clip) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{clip.id}/{other.id}".encode(), digest_size=8).digest()

    def utterances(self, clips: Sequence[Clip], limit: int | None) -> Iterator[Utterance]:
        """The first ``limit`` clips as utterances, each with its voice prompt and itself as the reference.

        Raises:
            ValueError: a speaker has no clip that can be a prompt.
        """
        by_speaker = grouped(clips)
        for clip in clips[:limit]:
            voice = self.choose(clip, by_speaker[clip.speaker])
            if voice is None:
                raise ValueError(
                    f"speaker {clip.speaker} has no utterance of {self.shortest:g} to {self.longest:g} seconds besides "
                    f"{clip.id} to take the voice from: widen dataset.prompt_seconds"
                )
            yield Utterance(
                id=clip.id,
                text=clip.text,
                speaker=clip.speaker,
                prompt_text=voice.text,
                load_prompt=voice.recording,
                load_reference=clip.recording,
            )


def grouped(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """By speaker."""
    by_speaker: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    return by_speaker
