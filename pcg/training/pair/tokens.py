"""The token stage: corpus shards through the codec's encoder, to what the language models learn from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from pcg.codecs.bundled import BundledCodec
from pcg.training.pair.audio import rows
from pcg.training.shards import shards, write_shard
from pcg.types import Audio

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """Encode every shard of ``corpus`` to ``out/<shard>.parquet``: id, speaker, phonemes, tokens.

    Args:
        corpus: folder of the corpus.
        codec: codec folder.
        out: where the token shards go; one that exists is not made again.
        device: where the codec runs.
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
            for row in rows(shard):
                (tokens,) = codec.encode([Audio(row["samples"].numpy(), codec.sample_rate)])
                histogram += torch.bincount(tokens.cpu(), minlength=len(histogram))
                encoded.append({k: row[k] for k in ("id", "speaker", "phonemes")} | {"tokens": tokens.tolist()})
            write_shard(path, encoded)
            share = histogram / histogram.sum()
            used, spread = int((histogram > 0).sum()), float(torch.special.entr(share).sum().exp())
            log.info("tokens: %s; so far %d codes used, perplexity %.0f", path.name, used, spread)
