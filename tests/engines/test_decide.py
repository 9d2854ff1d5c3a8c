"""What an adapter makes of blocks with holes: laws against the closed form, greedy rows, short rows, no rows."""

from __future__ import annotations

import pytest
import torch

from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.acceptance.pcg_block import PCGBlock
from pcg.engines.decide import NONE, decide, rows_of
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw

VOCAB, GAMMA, ROWS = 12, 3, 40_000
AUDIO = torch.arange(2, 10)  # speech among text, as in a model's own vocabulary
TABLE = GroupTable.from_members([[t for t in range(k - 1, k + 2) if 0 <= t < 8] for k in range(8)], 8)
GROUPS = TABLE.in_vocabulary(AUDIO, VOCAB)
GENERATOR = torch.Generator().manual_seed(0)
DRAFT = (1.5 * torch.randn(GAMMA, VOCAB, generator=GENERATOR)).softmax(1)
TARGET = (1.5 * torch.randn(GAMMA + 1, VOCAB, generator=GENERATOR)).softmax(1)


def total_variation(tokens: torch.Tensor, law: torch.Tensor) -> float:
    return (torch.bincount(tokens, minlength=len(law)) / len(tokens) - law).abs().sum().item() / 2


def emitted(rule: object, length: int = GAMMA, seed: int = 0) -> torch.Tensor:
    """Tokens of many independent rows with ``length`` drafts each."""
    randomness = Randomness(seed, torch.arange(ROWS))
    positions = torch.zeros(ROWS, dtype=torch.int64)
    drafts = draw(
        DRAFT.expand(ROWS, -1, -1), Randomness(seed + 1, torch.arange(ROWS)).draws(positions, Purpose.TOKEN, 3)
    )
    drafts[:, length:] = NONE
    return decide(rule, drafts, DRAFT.expand(ROWS, -1, -1), TARGET.expand(ROWS, -1, -1), positions, randomness)


@pytest.mark.parametrize("rule", [Exact(), PCG(GROUPS)], ids=["exact", "pcg"])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_tokens_have_the_rules_law(rule: object, length: int) -> None:
    """Where drafts end the token is the target's own, in a short row as after a whole block."""
    tokens = emitted(rule, length)
    for place in range(length + 1):
        reached = tokens[tokens[:, place] >= 0, place]
        law = rule.law(DRAFT[place], TARGET[place]) if place < length else TARGET[place]
        assert total_variation(reached, law) < 0.01 * (ROWS / len(reached)) ** 0.5, place
    assert (tokens[:, length + 1 :] == NONE).all()


def test_groups_are_exact_and_more_is_kept_than_of_tokens() -> None:
    clusters = GroupTable.from_members([[4 * k + i for i in range(4)] for k in range(2)], 8).in_vocabulary(AUDIO, VOCAB)
    tokens, exact = emitted(PCG(clusters)), emitted(Exact())
    group = torch.eye(VOCAB)[tokens[:, 0]]
    assert (clusters.coarse(group).mean(0) - clusters.coarse(TARGET[0])).abs().sum() / 2 < 0.01
    kept, kept_by_exact = ((each[:, 1:] >= 0).sum() for each in (tokens, exact))
    assert kept > 1.2 * kept_by_exact


@pytest.mark.parametrize("rule", [Exact(), PCG(GROUPS)], ids=["exact", "pcg"])
def test_a_row_does_not_depend_on_what_is_beside_it_or_behind_its_end(rule: object) -> None:
    rows = 200
    randomness = Randomness(5, torch.arange(rows))
    positions = torch.arange(rows)
    lengths = positions % (GAMMA + 1)
    drafts = draw(DRAFT.expand(rows, -1, -1), randomness.draws(positions, Purpose.TOKEN, 3))
    holes = torch.where(torch.arange(GAMMA) < lengths[:, None], drafts, NONE)
    mixed = decide(rule, holes, DRAFT.expand(rows, -1, -1), TARGET.expand(rows, -1, -1), positions, randomness)
    for length in range(1, GAMMA + 1):
        few = lengths == length
        alone = decide(
            rule, drafts[few, :length], DRAFT[:length].expand(int(few.sum()), -1, -1),
            TARGET[: length + 1].expand(int(few.sum()), -1, -1), positions[few], randomness.keep(few.nonzero()[:, 0]),
        )  # fmt: skip
        short = (alone >= 0).sum(1) <= length  # else the bonus token, which has another number here
        assert torch.equal(mixed[few, : length + 1][short], alone[short])
        assert torch.equal((mixed[few] >= 0).sum(1), (alone >= 0).sum(1))


def test_a_block_rule_keeps_its_law_where_drafts_end_early() -> None:
    """What follows a prefix is the target's law, whichever of its tokens a longer block would have kept."""
    tokens = emitted(PCGBlock(GroupTable.from_members([], VOCAB)), 2)  # groups of one: exact, tested as a block
    for place in range(2):
        assert total_variation(tokens[:, 0], TARGET[0]) < 0.01
        reached = tokens[tokens[:, place] >= 0, place]
        assert len(reached) > 10_000
    # the second token of all sequences, that of the next round where the first was recovered, is the target's too
    second = torch.where(
        tokens[:, 1] >= 0,
        tokens[:, 1],
        draw(TARGET[1].expand(ROWS, -1), torch.rand(ROWS, generator=GENERATOR, dtype=torch.float64)),
    )
    assert total_variation(second, TARGET[1]) < 0.01


def test_greedy_rows_are_exact_whatever_the_rule() -> None:
    everything = PCG(GroupTable.from_members([list(range(VOCAB))], VOCAB))
    best = TARGET.argmax(1)
    drafts = torch.stack([best[:3], best[[0, 0, 2]], best[[1, 1, 2]], torch.tensor([best[0], NONE, NONE])])
    wanted = torch.stack([best, torch.tensor([best[0], best[1], -1, -1]), torch.tensor([best[0], -1, -1, -1]),
                          torch.tensor([best[0], best[1], -1, -1])])  # fmt: skip
    rows = len(drafts)
    arguments = DRAFT.expand(rows, -1, -1), TARGET.expand(rows, -1, -1), torch.zeros(rows, dtype=torch.int64)
    greedy = torch.ones(rows, dtype=torch.bool)
    said = decide(everything, drafts, *arguments, Randomness(0, torch.arange(rows)), greedy, best.expand(rows, -1))
    assert torch.equal(said, wanted)
    free = decide(everything, drafts, *arguments, Randomness(0, torch.arange(rows)), ~greedy, best.expand(rows, -1))
    assert torch.equal(free[:3, :3], drafts[:3])  # one group holds everything: all is kept


def test_ragged_rows() -> None:
    places, there = rows_of(torch.tensor([0, 2, 2, 5]), torch.tensor([2, 0, 3, 1]), 3)
    assert torch.equal(places, torch.tensor([[0, 1, 1], [2, 2, 2], [2, 3, 4], [5, 5, 5]]))
    assert there.sum(1).tolist() == [2, 0, 3, 1]
