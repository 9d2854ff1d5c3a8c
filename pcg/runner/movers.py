"""The earth mover's distances of a run: by what is heard of tokens, and by the target's embeddings."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.config.build import TARGET, build
from pcg.config.validate import ConfigError
from pcg.decoding.transport import EarthMover, Movers, farthest, installed
from pcg.groups.cache import describe, kept_tensor
from pcg.groups.token_sounds import contexts_of, kept_sounds
from pcg.interfaces import Codec

# Where tokens are heard: always the same places, so that a figure in dB means the same in every study.
CONTEXTS = 8
_VOICES = {TARGET: "pcg.data.bundled.Bundled"}


def movers_of(
    embeddings: Float[Tensor, "vocab dim"], end: int, codec: Codec | None, codec_name: str, every: int, cache: Path
) -> Movers:
    """``sound`` in dB and ``embedding`` in units of the vectors' length; without a codec nothing is heard.

    What is heard of a codec's tokens is kept on disk: a minute of one CPU core for the bundled codec, once.

    Args:
        embeddings: the target's.
        end: end-of-speech.
        codec_name: tells this codec, its weights and settings, from others.
        every: one of this many positions is measured.
        cache: folder that keeps what was heard.

    Raises:
        ConfigError: the solver is not installed.
    """
    if not installed():
        raise ConfigError([f"decoding.sound_every={every}: needs the package POT: pip install 'pcg[sound]'"])
    # two unit vectors are 2 apart at most
    by_embedding = EarthMover(embeddings, end, farthest=2.0, unit=True)
    if codec is None:
        return Movers({"embedding": by_embedding}, every)
    places = contexts_of(build(_VOICES), codec, CONTEXTS)
    sounds = kept_sounds(codec, codec_name, places, cache)
    name = f"farthest {codec_name} {describe(places)}"
    apart = kept_tensor(name, lambda: torch.tensor(farthest(sounds)), cache).item()
    return Movers({"sound": EarthMover(sounds, end, apart), "embedding": by_embedding}, every)
