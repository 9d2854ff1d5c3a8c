"""The sparse table: by hand, against a dense one, on disk, and what it says of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcg.groups.table import GroupTable

MEMBERS = [[0, 1], [1, 2, 4], [3]]
TABLE = GroupTable.from_members(MEMBERS, 6)


def dense(members: list[list[int]], vocab: int) -> torch.Tensor:
    """``w[k, t]``, the long way, orphans last."""
    held = {t for group in members for t in group}
    groups = members + [[t] for t in range(vocab) if t not in held]
    weights = torch.zeros(len(groups), vocab, dtype=torch.float64)
    for k, group in enumerate(groups):
        weights[k, group] = 1
    return weights / weights.sum(0)


def test_by_hand() -> None:
    assert len(TABLE) == 4  # token 5 is in no group: a singleton of its own
    assert TABLE.members.tolist() == [0, 1, 1, 2, 4, 3, 5]
    assert TABLE.holders.tolist() == [0, 0, 1, 1, 2, 1, 3]
    assert TABLE.sizes.tolist() == [2, 3, 1, 1]
    assert TABLE.weights.tolist() == [1, 0.5, 1, 1, 1, 1]
    assert TABLE.members.dtype == TABLE.holders.dtype == torch.int32
    probs = torch.tensor([0.1, 0.2, 0.3, 0.1, 0.2, 0.1])
    torch.testing.assert_close(TABLE.coarse(probs), torch.tensor([0.2, 0.6, 0.1, 0.1]))
    torch.testing.assert_close(TABLE.spread(torch.tensor([1.0, 2, 3, 4])), torch.tensor([1, 1.5, 2, 3, 2, 4]))
    torch.testing.assert_close(TABLE.sharing_mass(probs), torch.tensor([0.3, 0.8, 0.7, 0.1, 0.7, 0.1]))


def test_report() -> None:
    assert TABLE.report() == {
        "groups": 4,
        "mean_size": 1.75,
        "median_size": 1.5,
        "max_size": 3,
        "singleton_share": 0.5,
        "bytes": 4 * (5 + 7 + 7 + 7),
    }


@pytest.mark.parametrize(
    "members",
    [MEMBERS, [[0, 1, 2], [0, 1, 2], [0, 1, 2, 3], [2, 3], [4], [5]], [[0, 1, 2], [1], [2], [2, 3], [4], [5]]],
    ids=["of nobody", "symmetric", "of their tokens"],
)
def test_among_other_tokens(members: list[list[int]]) -> None:
    """The groups keep their members under new ids, in any order; all other tokens are alone."""
    table, ids = GroupTable.from_members(members, 6), torch.tensor([7, 3, 4, 9, 1, 8])
    larger = table.in_vocabulary(ids, 11)
    wanted = {tuple(sorted(ids[list(group)].tolist())) for group in members} | {(t,) for t in (0, 2, 5, 6, 8, 10)}
    groups = [tuple(group.tolist()) for group in larger.members.split(larger.sizes.tolist())]
    assert set(groups) == wanted
    assert len(groups) == len(table) + 5
    assert (larger.symmetric, larger.seeded) == (table.symmetric, table.seeded)
    probs = torch.rand(11)
    spread = larger.spread(larger.coarse(probs))
    torch.testing.assert_close(spread[ids], table.spread(table.coarse(probs[ids])))
    torch.testing.assert_close(spread[[0, 2, 5, 6, 10]], probs[[0, 2, 5, 6, 10]])


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([0, 1], "there are 2 different ids"),
        ([0, 1, 2, 3, 4, 4], "there are 5 different"),
        ([0, 1, 2, 3, 4, 7], "allowed: 0 to 6"),
    ],
)
def test_among_refuses_ids_that_do_not_fit(ids: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TABLE.in_vocabulary(torch.tensor(ids), 7)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_against_a_dense_table(data: st.DataObject) -> None:
    vocab = data.draw(st.integers(1, 12))
    members = [sorted(g) for g in data.draw(st.lists(st.sets(st.integers(0, vocab - 1), min_size=1), max_size=9))]
    table, weights = GroupTable.from_members(members, vocab), dense(members, vocab)
    probs = torch.rand(2, 3, vocab, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(table.coarse(probs), probs @ weights.t())
    values = torch.rand(3, len(weights), dtype=torch.float64)
    torch.testing.assert_close(table.spread(values), values @ weights)
    share = (weights.t() @ weights > 0).double()
    torch.testing.assert_close(table.sharing_mass(probs), probs @ share)
    tokens = torch.arange(vocab)
    ids, inside = table.holders_of(tokens)
    assert [ids[t][inside[t]].tolist() for t in tokens] == [weights[:, t].nonzero().squeeze(1).tolist() for t in tokens]
    ids, portion = table.members_of(torch.arange(len(table)))
    torch.testing.assert_close(torch.zeros_like(weights).scatter_add_(1, ids, portion), weights)


def test_drawn_groups_are_even() -> None:
    """A token's groups share the numbers in [0, 1) evenly, and the largest number still gives a group of its own."""
    numbers = (torch.arange(1000, dtype=torch.float64) / 1000).expand(2, -1)
    groups = TABLE.draw_group(torch.tensor([[1], [3]]).expand(2, 1000), numbers)
    assert torch.bincount(groups[0]).tolist() == [500, 500]
    assert (groups[1] == 2).all()
    assert TABLE.draw_group(torch.tensor([1]), torch.tensor([1 - 2.0**-53], dtype=torch.float64)).item() == 1


def test_on_disk(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "table.safetensors")
    loaded = GroupTable.load(tmp_path / "table.safetensors")
    assert loaded == TABLE
    assert torch.equal(loaded.holders, TABLE.holders)
    assert loaded != GroupTable.from_members(MEMBERS, 7)
    assert loaded != GroupTable.from_members([[0, 1], [1, 2]], 6)


def test_a_symmetric_table_is_stored_once(tmp_path: Path) -> None:
    table = GroupTable.from_members([[0, 1], [0, 1, 2], [1, 2]], 3)
    assert table.symmetric
    assert table.holders is table.members
    assert table.report()["bytes"] == 4 * (4 + 7)
    table.save(tmp_path / "table.safetensors")
    assert GroupTable.load(tmp_path / "table.safetensors").symmetric
    assert table.to("cpu").symmetric
    assert not TABLE.to("cpu").symmetric
    assert TABLE.to("cpu") == TABLE


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([[0], []], "group 1 is empty"),
        ([[0, 6]], "group 0 holds an id outside 0 to 5"),
        ([[-1]], "group 0 holds an id outside"),
        ([[1, 1]], "group 0 holds a token twice"),
        ([[], [1, 1]], "group 0 is empty; group 1 holds"),
    ],
)
def test_bad_members_are_one_clear_error(members: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupTable.from_members(members, 6)


def test_groups_must_fit_the_model() -> None:
    groupable = torch.tensor([True] * 5 + [False])
    TABLE.check(groupable)
    with pytest.raises(ValueError, match=r"tokens \[4\] share a group; end-of-speech"):
        TABLE.check(torch.tensor([True] * 4 + [False] * 2))
    with pytest.raises(ValueError, match="the groups are over 6 tokens, the model's vocabulary has 7"):
        TABLE.check(torch.ones(7, dtype=torch.bool))
    with pytest.raises(ValueError, match="the probabilities are over 5 tokens, the groups over 6"):
        TABLE.coarse(torch.ones(5))


def test_warnings() -> None:
    with pytest.warns(UserWarning, match="here: every group is a singleton"):
        GroupTable.from_members([], 6).warn("here")
    with pytest.warns(UserWarning, match="one group holds 4 of 6 tokens"):
        GroupTable.from_members([[0, 1, 2, 3]], 6).warn("here")
    TABLE.warn("nothing to say")
