"""A voice prompt for every utterance: another utterance of the same speaker."""

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
    """A recorded utterance, whose audio is read when it is used and not held in memory.

    Attributes:
        read: returns the bytes of its WAV or FLAC file.
        source: name of that file, for messages.
    """

    id: str
    speaker: str
    text: str
    read: Callable[[], bytes]
    source: str = "a recording"

    @cached_property
    def seconds(self) -> float:
        """The length of its audio, which is decoded once for that; NaN, with a warning, if it cannot be used."""
        try:
            return self.recording().seconds
        except UnreadableAudio as error:
            log.warning("%s; it is not used as a voice prompt", error)
            return math.nan

    @property
    def recording(self) -> Recording:
        return Recording(self.read, self.source)


@dataclass(frozen=True)
class Voices:
    """Chooses the voice prompt of each clip.

    For each utterance the speaker's other clips are ordered by a hash of the seed and both ids; the first that can be
    read and has an allowed length is the prompt. So the choice depends only on the seed and the speaker's clips, not on
    other utterances, the limit or the order of reading.

    Attributes:
        shortest, longest: bounds of a prompt, in seconds.
    """

    shortest: float
    longest: float
    seed: int

    def choose(self, clip: Clip, of_speaker: Sequence[Clip]) -> Clip | None:
        """The prompt of a clip; None if the speaker has no other clip of an allowed length."""
        others = sorted(
            (other for other in of_speaker if other.id != clip.id), key=lambda other: self._rank(clip, other)
        )
        return next((other for other in others if self.shortest <= other.seconds <= self.longest), None)

    def _rank(self, clip: Clip, other: Clip) -> bytes:
        return hashlib.blake2b(f"{self.seed}/{clip.id}/{other.id}".encode(), digest_size=8).digest()

    def utterances(self, clips: Sequence[Clip], limit: int | None) -> Iterator[Utterance]:
        """The first ``limit`` clips as utterances, each with its voice prompt, and with itself as the reference.

        Raises:
            ValueError: a speaker has no clip that can be a prompt.
        """
        by_speaker = grouped(clips)
        for clip in clips[:limit]:
            voice = self.choose(clip, by_speaker[clip.speaker])
            if voice is None:
                raise ValueError(
                    f"speaker {clip.speaker} has no utterance of {self.shortest:g} to {self.longest:g} seconds, other "
                    f"than {clip.id}, for a voice prompt; widen dataset.prompt_seconds"
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
    """The clips of each speaker."""
    by_speaker: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_speaker[clip.speaker].append(clip)
    return by_speaker
