"""Groups by sound: tokens that the codec decodes to similar sound in the same context.

Ours. PCG's groups compare the target's embeddings (arXiv 2511.13732), which say how a model uses a token, not how it
sounds. Both neighbourhoods can be joined by the sum of ranks, which needs no scale between a cosine and decibels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor

from pcg.constraints import ABOVE_0, FROM_1
from pcg.groups.cosine import MOST
from pcg.groups.similarity import BLOCK, GroupableRows, groupable_ids
from pcg.groups.table import GroupTable
from pcg.groups.token_sounds import cached_sounds, contexts_of
from pcg.interfaces import Codec, Dataset

_STRIPE = 512  # rows at a time: at 65,536 tokens their distances take 134 MB, all that is derived from them 1.3 GB


@dataclass(frozen=True, kw_only=True)
class Sound:
    """``G_s``: token s and its ``k`` nearest groupable tokens, those within ``radius``, or those that are both.

    With ``k`` the relation is not symmetric.

    Attributes:
        k: number of other tokens; None for all within the radius.
        radius: root mean square difference of the sound around a token, in dB; None for no limit.
        embedding: True ranks neighbours by the sum of their ranks in sound and in cosine, False by sound alone.
        contexts: number of contexts in which each token is decoded.
        voices: recordings that the contexts are taken from.
        codec: decodes the tokens.
        codec_name: identifies the codec, its weights and settings in the cache.
        cache: folder for the decoded sounds, which take longest; None: not cached.
        places: tokens of the contexts.
    """

    codec: Codec = field(repr=False)
    codec_name: str
    voices: Dataset = field(repr=False)
    k: Annotated[int, FROM_1] | None
    radius: Annotated[float, ABOVE_0] | None = None
    embedding: bool = True
    contexts: Annotated[int, FROM_1] = 8
    cache: Path | None = field(default=None, repr=False)
    places: Int[Tensor, "contexts length"] = field(init=False)

    def __post_init__(self) -> None:
        if self.k is None and (self.radius is None or self.embedding):
            raise ValueError(
                "sound: k=null needs a radius and embedding=false, but there is "
                f"radius={self.radius}, embedding={self.embedding}"
            )
        object.__setattr__(self, "places", contexts_of(self.voices, self.codec, self.contexts))

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: the mask or the rows do not fit, a groupable token is none of the codec's, there are fewer than
                k others, or the table would not fit in memory.
        """
        ids = groupable_ids(embeddings, groupable)
        if ids[-1] >= self.codec.codebook_size:
            raise ValueError(
                f"sound: token {ids[-1]} is groupable, but the codec has only {self.codec.codebook_size} tokens"
            )
        if self.k is not None and self.k >= len(ids):
            raise ValueError(f"sound: k={self.k}, but a token has only {len(ids) - 1} others; set k to that or less")
        sizes, members_of_stripes = torch.ones(len(embeddings), dtype=torch.long), []
        for stripe, together in self._stripes(GroupableRows.of(embeddings, groupable, center=False)):
            sizes[stripe.cpu()] = together.sum(1).cpu()
            members_of_stripes.append(ids[together.nonzero()[:, 1]].to(torch.int32).cpu())
            if sizes.sum() > MOST:
                raise ValueError(
                    f"sound: a table of over {MOST:,} memberships; lower k={self.k} or radius={self.radius}"
                )
        members = torch.arange(len(embeddings), dtype=torch.int32).repeat_interleave(sizes)
        grouped = torch.zeros(len(embeddings), dtype=torch.bool).index_fill_(0, ids.cpu(), True)
        members[grouped.repeat_interleave(sizes)] = torch.cat(members_of_stripes)
        table = GroupTable.from_csr(sizes, members, len(embeddings))
        table.warn(f"groups by sound, k={self.k}, radius={self.radius}")
        return table

    def _stripes(self, rows: GroupableRows) -> Iterator[tuple[Int[Tensor, "stripe"], Bool[Tensor, "stripe rows"]]]:
        """Ids of some rows, and which rows are in their groups."""
        sounds = cached_sounds(self.codec, self.codec_name, self.places, self.cache)
        sounds = sounds[rows.ids.cpu()].to(rows.ids.device).float()
        with Progress(transient=True, disable=len(rows) < 16_384) as progress:
            task = progress.add_task("groups by sound", total=len(rows))
            for start in range(0, len(rows), _STRIPE):
                left = rows.block(start)[:_STRIPE]
                own = torch.arange(start, min(start + _STRIPE, len(rows)), device=rows.ids.device)
                apart = _squared_distances(sounds, own)
                near = apart
                if self.embedding:
                    alike = torch.cat([left @ rows.block(j).t() for j in range(0, len(rows), BLOCK)], 1)
                    alike[range(len(own)), own] = torch.inf
                    by_sound = _ranks(apart)
                    near = (by_sound + _ranks(-alike)) * len(rows) + by_sound  # of equal sums, the nearer in sound
                together = torch.ones_like(apart, dtype=torch.bool)
                if self.k is not None:
                    nearest = near.topk(self.k + 1, 1, largest=False).indices
                    together = torch.zeros_like(together).scatter_(1, nearest, True)
                if self.radius is not None:
                    together &= apart <= self.radius**2
                yield rows.ids[own], together
                progress.advance(task, len(own))


def _squared_distances(sounds: Float[Tensor, "rows dims"], own: Int[Tensor, "stripe"]) -> Float[Tensor, "stripe rows"]:
    """Squared distances of some rows from all; that of a row from itself is -1, below all others."""
    lengths = sounds.square().sum(1)
    apart = torch.addmm(lengths, sounds[own], sounds.t(), alpha=-2).add_(lengths[own, None]).clamp_(min=0)
    apart[range(len(own)), own] = -1.0
    return apart


def _ranks(values: Float[Tensor, "stripe rows"]) -> Int[Tensor, "stripe rows"]:
    """The rank of each value in its row, 0 for the smallest."""
    ranks = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return torch.empty_like(ranks).scatter_(1, values.sort(dim=1, stable=True).indices, ranks)
