"""The earth mover's distances of a run: between the sounds of tokens, and between the target's embeddings."""

from __future__ import annotations

import torch

from pcg.config.build import TARGET, build
from pcg.config.run import Run
from pcg.config.validate import ConfigError
from pcg.decoding.transport import EarthMover, Movers, farthest, installed
from pcg.files import cache_folder
from pcg.groups.cache import cached_tensor, describe
from pcg.groups.token_sounds import cached_sounds, contexts_of
from pcg.interfaces import Codec, TokenLM
from pcg.runner.groups import codec_name
from pcg.runner.loading import kept, versioned

# The contexts in which tokens are decoded are always the same, so that dB mean the same in every study.
CONTEXTS = 8
_VOICES = {TARGET: "pcg.data.bundled.Bundled"}


def movers_of(run: Run, target: TokenLM, codec: Codec | None) -> Movers | None:
    """``sound`` in dB, if there is a codec, and ``embedding`` in units of the vectors' length.

    The sounds of a codec's tokens are kept on disk: making them takes a minute of one CPU core for the bundled codec.

    Returns:
        None without ``decoding.sound_every``.

    Raises:
        ConfigError: the solver is not installed.
    """
    every = run.values["decoding"].get("sound_every")
    if every is None:
        return None
    if not installed():
        raise ConfigError([f"decoding.sound_every={every}: needs the package POT: pip install 'pcg[sound]'"])
    key = [*map(versioned, (run.target, run.values["codec"])), str(run.device), every]
    return kept.get("movers", key, lambda: _made(run, target, codec, every))


def _made(run: Run, target: TokenLM, codec: Codec | None, every: int) -> Movers:
    embeddings, end = target.embeddings("input"), target.end
    by_embedding = EarthMover(embeddings, end, farthest=2.0, unit=True)  # two unit vectors are at most 2 apart
    if codec is None:
        return Movers({"embedding": by_embedding}, every)
    name, cache = codec_name(run.values["codec"], run.values["fingerprints"]), cache_folder()
    contexts = contexts_of(build(_VOICES), codec, CONTEXTS)
    sounds = cached_sounds(codec, name, contexts, cache)
    most = cached_tensor(f"farthest {name} {describe(contexts)}", lambda: torch.tensor(farthest(sounds)), cache).item()
    return Movers({"sound": EarthMover(sounds, end, most), "embedding": by_embedding}, every)
