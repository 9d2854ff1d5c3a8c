"""Groups by sound: tokens of which the codec makes the same in the same place.

Ours; PCG's own groups look at the target's embeddings (arXiv 2511.13732), which say what a model does with a token,
not what is heard of it. The two neighbourhoods can be joined by the sum of ranks, so that no scale has to be found
between a cosine and decibels.
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
from pcg.groups.similarity import BLOCK, Rows, groupable_ids
from pcg.groups.table import GroupTable
from pcg.groups.token_sounds import contexts_of, kept_sounds
from pcg.interfaces import Codec, Dataset

_STRIPE = 512  # rows at a time: at 65,536 tokens their distances take 134 MB, and all that is made of them about 1.3 GB


@dataclass(frozen=True, kw_only=True)
class Sound:
    """``G_s``: token s, and of the groupable tokens its ``k`` nearest, those within ``radius``, or those that are both.

    Only the others of a token are limited; the group is not symmetric where there is a ``k``.

    Attributes:
        k: how many others; None for all within the radius.
        radius: root mean square difference of what is heard around a token, in dB; None for no limit.
        embedding: near is by the sum of the ranks in sound and in cosine of the embeddings, rather than in sound alone.
        contexts: in how many places each token is heard.
        voices: recordings that the places are in.
        codec: what decodes.
        codec_name: tells this codec, its weights and settings, from others, for the cache.
        cache: folder that keeps what was heard, which takes longest; None to keep nothing.
        places: tokens of the places.
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
                "sound: without k there must be a radius, and embedding=false: "
                f"k=null, radius={self.radius}, embedding={self.embedding}"
            )
        object.__setattr__(self, "places", contexts_of(self.voices, self.codec, self.contexts))

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: for a mask or rows that do not fit, tokens that the codec does not have, fewer than k others, or
                a table that would not fit in memory.
        """
        ids = groupable_ids(embeddings, groupable)
        if ids[-1] >= self.codec.codebook_size:
            raise ValueError(f"sound: token {ids[-1]} is groupable, but the codec has {self.codec.codebook_size}")
        if self.k is not None and self.k >= len(ids):
            raise ValueError(f"sound: k={self.k}, but a token has only {len(ids) - 1} others to be grouped with")
        sizes, found = torch.ones(len(embeddings), dtype=torch.long), []
        for stripe, together in self._stripes(Rows.of(embeddings, groupable, center=False)):
            sizes[stripe.cpu()] = together.sum(1).cpu()
            found.append(ids[together.nonzero()[:, 1]].to(torch.int32).cpu())
            if sizes.sum() > MOST:
                raise ValueError(
                    f"sound: a table of over {MOST:,} memberships: lower k={self.k} or radius={self.radius}"
                )
        members = torch.arange(len(embeddings), dtype=torch.int32).repeat_interleave(sizes)
        grouped = torch.zeros(len(embeddings), dtype=torch.bool).index_fill_(0, ids.cpu(), True)
        members[grouped.repeat_interleave(sizes)] = torch.cat(found)
        table = GroupTable.from_csr(sizes, members, len(embeddings))
        table.warn(f"groups by sound, k={self.k}, radius={self.radius}")
        return table

    def _stripes(self, rows: Rows) -> Iterator[tuple[Int[Tensor, "stripe"], Bool[Tensor, "stripe rows"]]]:
        """Ids of some rows, and who is in their groups."""
        sounds = kept_sounds(self.codec, self.codec_name, self.places, self.cache)
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
                    near = (by_sound + _ranks(-alike)) * len(rows) + by_sound  # of equal sums the better in sound
                together = torch.ones_like(apart, dtype=torch.bool)
                if self.k is not None:
                    nearest = near.topk(self.k + 1, 1, largest=False).indices
                    together = torch.zeros_like(together).scatter_(1, nearest, True)
                if self.radius is not None:
                    together &= apart <= self.radius**2
                yield rows.ids[own], together
                progress.advance(task, len(own))


def _squared_distances(sounds: Float[Tensor, "rows dims"], own: Int[Tensor, "stripe"]) -> Float[Tensor, "stripe rows"]:
    """Of some rows from all; a row is nearer to itself than any other can be."""
    lengths = sounds.square().sum(1)
    apart = torch.addmm(lengths, sounds[own], sounds.t(), alpha=-2).add_(lengths[own, None]).clamp_(min=0)
    apart[range(len(own)), own] = -1.0
    return apart


def _ranks(values: Float[Tensor, "stripe rows"]) -> Int[Tensor, "stripe rows"]:
    """Each value's place in its row, from 0 for the smallest."""
    places = torch.arange(values.shape[1], device=values.device).expand_as(values)
    return torch.empty_like(places).scatter_(1, values.sort(dim=1, stable=True).indices, places)
