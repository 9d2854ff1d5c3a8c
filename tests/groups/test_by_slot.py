"""Groups of models that say several tokens a frame: within a slot those of the builder, and never across."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from pcg.groups.by_slot import BySlot
from pcg.groups.cosine import Cosine
from pcg.groups.knn import KNN
from pcg.groups.table import GroupTable

SLOTS, CODES = 3, 20
VOCAB = SLOTS * CODES + 1


@pytest.fixture
def embeddings() -> torch.Tensor:
    of_slot = torch.randn(CODES, 4, generator=torch.Generator().manual_seed(0))
    return torch.cat([of_slot, of_slot, of_slot, torch.ones(1, 4)])  # slots alike: a plain table would join them


@pytest.mark.parametrize("builder", [Cosine(0.6), KNN(2)])
def test_each_slot_has_the_builders_groups_of_its_own_rows(builder, embeddings: torch.Tensor) -> None:
    groupable = torch.arange(VOCAB) < VOCAB - 1
    table = BySlot(builder, SLOTS).build(embeddings, groupable)
    one = builder.build(embeddings[:CODES], None)
    members = [
        [int(member) + slot * CODES for member in group.tolist()]
        for slot in range(SLOTS)
        for group in one.members.split(one.sizes.tolist())
    ]
    assert table == GroupTable.from_members([*members, [VOCAB - 1]], VOCAB)
    assert table.symmetric == one.symmetric
    table.check(groupable)
    if isinstance(builder, Cosine):
        plain = builder.build(embeddings, groupable)
        assert len(plain.members) > len(table.members)  # it would have joined what is never heard alike


@dataclass(frozen=True)
class Noted:
    """A builder that notes how many rows it is given."""

    rows: list[int] = field(default_factory=list)

    def build(self, embeddings: torch.Tensor, groupable: torch.Tensor | None) -> GroupTable:
        self.rows.append(len(embeddings))
        return GroupTable.from_members([], len(embeddings))


def test_no_similarity_between_two_slots_is_computed(embeddings: torch.Tensor) -> None:
    noted = Noted()
    assert len(BySlot(noted, SLOTS).build(embeddings, None)) == VOCAB
    assert noted.rows == [CODES] * SLOTS


def test_tokens_that_make_no_whole_slots_are_refused(embeddings: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="60 tokens are not a multiple of 7 slots"):
        BySlot(Cosine(0.5), 7).build(embeddings, None)
