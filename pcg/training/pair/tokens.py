"""The token stage: encodes the corpus to the tokens that language models are trained on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from pcg.codecs.bundled import BundledCodec
from pcg.codecs.fsq import perplexity
from pcg.training.shards import audio_rows, shards, write_shard
from pcg.types import Audio

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenCorpus:
    """Encodes every shard of ``corpus`` to ``out/<shard>.parquet``: id, speaker, phonemes, tokens.

    Args:
        corpus: folder of the corpus.
        codec: codec folder.
        out: folder of the token shards; existing ones are kept.
        device: of the codec.
    """

    corpus: str
    codec: str
    out: str
    device: str

    def run(self) -> None:
        codec = BundledCodec(self.codec, self.device)
        Path(self.out).mkdir(parents=True, exist_ok=True)
        histogram = torch.zeros(codec.codebook_size, dtype=torch.int64)
        for shard in [*shards(self.corpus, "train"), *sorted(Path(self.corpus).glob("heldout-*.parquet"))]:
            path = Path(self.out) / shard.name
            if path.exists():
                continue
            encoded = []
            for row in audio_rows(shard):
                (tokens,) = codec.encode([Audio(row["samples"].numpy(), codec.sample_rate)])
                histogram += torch.bincount(tokens.cpu(), minlength=len(histogram))
                encoded.append({k: row[k] for k in ("id", "speaker", "phonemes")} | {"tokens": tokens.tolist()})
            write_shard(path, encoded)
            used = int((histogram > 0).sum())
            log.info("tokens: %s; so far %d codes used, perplexity %.0f", path.name, used, perplexity(histogram))
