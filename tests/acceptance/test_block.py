"""Block verification and its extension to groups, by enumeration of all blocks of two tokens, and by simulation."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from pcg.acceptance import thinning
from pcg.acceptance.block import Block, joint_ratio, keep_probability
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.acceptance.pcg_block import PCGBlock
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness
from tests.acceptance.harness import chi_square, pairs, simulate, survival, table

CASES = range(6)


def conditional(size: int, seed: int) -> tuple[Float[Tensor, "size"], Float[Tensor, "size size"]]:
    """A distribution of a first outcome and of a second one given each first; some are impossible."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size + 1, size, generator=generator, dtype=torch.float64) * 1.5
    logits[torch.rand(size + 1, size, generator=generator) < 0.15] = -torch.inf
    logits[:, seed % size] = 0.0
    probs = logits.softmax(-1)
    return probs[0], probs[1:]


def block_outcomes(
    draft: tuple[Float[Tensor, "size"], Float[Tensor, "size size"]],
    target: tuple[Float[Tensor, "size"], Float[Tensor, "size size"]],
) -> tuple[Float[Tensor, "size size"], Float[Tensor, ""]]:
    """Joint law of the first two outcomes, and the expected number kept, over all drafted pairs of outcomes."""
    size = len(draft[0])
    first, second = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    drafted = draft[0][first] * draft[1][first, second]
    first, second, drafted = first[drafted > 0], second[drafted > 0], drafted[drafted > 0]
    ratios = torch.stack([target[0][first] / draft[0][first], target[1][first, second] / draft[1][first, second]], 1)
    draft_rows = torch.stack([draft[0].expand(len(first), -1), draft[1][first]], 1)
    target_rows = torch.stack([target[0].expand(len(first), -1), target[1][first], target[1][first]], 1)
    joint = joint_ratio(ratios)
    one, two = keep_probability(draft_rows, target_rows, joint).unbind(1)

    law = torch.zeros(size, size, dtype=torch.float64)
    law.index_put_((first, second), drafted * two, accumulate=True)
    after_one = (joint[:, 1:2] * target[1][first] - draft[1][first]).clamp(min=0)
    ends_at_one = drafted * (1 - two) * one
    law.index_add_(0, first, normal(after_one) * ends_at_one.unsqueeze(1))
    at_once = normal((target[0] - draft[0]).clamp(min=0)) * (drafted * (1 - two) * (1 - one)).sum()
    law += at_once.unsqueeze(1) * target[1]  # the next round goes on with the target's law
    return law, (drafted * (2 * two + (1 - two) * one)).sum()


def normal(weights: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)


@pytest.mark.parametrize("seed", CASES)
def test_block_is_lossless_and_keeps_at_least_what_exact_keeps(seed: int) -> None:
    draft, target = conditional(5, seed), conditional(5, seed + 100)
    law, kept = block_outcomes(draft, target)
    torch.testing.assert_close(law, target[0].unsqueeze(1) * target[1])
    alpha = draft[0].minimum(target[0])
    exact = alpha.sum() + (alpha * draft[1].minimum(target[1]).sum(1)).sum()
    assert kept >= exact - 1e-12


def test_block_keeps_more_on_the_papers_example() -> None:
    """With p = (1/3, 2/3), q = (2/3, 1/3) token verification keeps 10/9 of two tokens, block verification 11/9."""
    draft = torch.tensor([2 / 3, 1 / 3], dtype=torch.float64)
    target = draft.flip(0)
    _, kept = block_outcomes((draft, draft.expand(2, 2)), (target, target.expand(2, 2)))
    torch.testing.assert_close(kept, torch.tensor(11 / 9, dtype=torch.float64))
    assert abs((2 / 3 + (2 / 3) ** 2) - 10 / 9) < 1e-12


GROUPS = GroupTable.from_members([[0, 1, 2], [2, 3], [1, 4], [5]], 6)


def extended(
    draft: Float[Tensor, "*batch vocab"], target: Float[Tensor, "*batch vocab"]
) -> tuple[Float[Tensor, "*batch pairs"], Float[Tensor, "*batch pairs"]]:
    """Law of (group, token) pairs, drafted and aimed at, by the definition and without the table's own sums."""
    member = torch.zeros(len(GROUPS), 6, dtype=torch.float64)
    for k, group in enumerate([[0, 1, 2], [2, 3], [1, 4], [5]]):
        member[k, group] = 1
    split = member / member.sum(0)
    drafted, wanted = draft.unsqueeze(-2) * split, target.unsqueeze(-2) * split
    draft_mass, target_mass = drafted.sum(-1, keepdim=True), wanted.sum(-1, keepdim=True)
    aim = torch.where(draft_mass > 0, target_mass * drafted / draft_mass.clamp(min=1e-300), wanted)
    return drafted.flatten(-2), aim.flatten(-2)


@pytest.mark.parametrize("seed", CASES)
def test_pcg_block_is_block_on_pairs(seed: int) -> None:
    """Groups have law P_c, jointly for two tokens, and no fewer tokens are kept than by pcg."""
    (draft_one, draft_two), (target_one, target_two) = conditional(6, seed), conditional(6, seed + 100)
    token = torch.arange(6).repeat(len(GROUPS))  # of each pair
    drafts, aims = zip(extended(draft_one, target_one), extended(draft_two[token], target_two[token]), strict=True)
    law, kept = block_outcomes(drafts, aims)
    torch.testing.assert_close(law, aims[0].unsqueeze(1) * aims[1])

    groups = law.view(len(GROUPS), 6, len(GROUPS), 6)
    torch.testing.assert_close(groups.sum((1, 2, 3)), GROUPS.coarse(target_one))
    given = groups.sum((0, 3)) / groups.sum((0, 2, 3)).unsqueeze(1).clamp(min=1e-300)
    said = groups.sum((0, 2, 3)) > 0
    torch.testing.assert_close(given[said], GROUPS.coarse(target_two)[said])

    pcg = PCG(GROUPS)
    keep = (GROUPS.coarse(target_one) / GROUPS.coarse(draft_one)).nan_to_num(0, posinf=0).clamp(max=1)
    first = draft_one * GROUPS.spread(keep)
    tokenwise = first.sum() + (first * pcg.expected_acceptance(draft_two, target_two)).sum()
    assert kept >= tokenwise - 1e-12


@pytest.mark.parametrize(
    ("rule", "law"),
    [
        (Block(), Exact()),
        (PCGBlock(table(24, "ragged")), PCG(table(24, "ragged"), "draft")),
        (PCGBlock(table(24, "ragged"), 0.2), PCG(table(24, "ragged"), "draft", 0.2)),
    ],
    ids=["block", "pcg_block", "pcg_block_floor"],
)
def test_tokens_of_a_block_of_three_follow_the_law(rule: Block | PCGBlock, law: Exact | PCG) -> None:
    """Verified blocks, gone on with by the law where they ended early: each of the three tokens has the law."""
    chosen = [pairs(24)[name] for name in ("smooth", "close", "flat")]
    drafts = torch.stack([draft for draft, _ in chosen])
    targets = torch.stack([target for _, target in chosen] + [pairs(24)["zeros"][1]])
    laws = [law.law(*pair) for pair in chosen]
    drafted, accepted, token = simulate(rule, drafts, targets, 100_000, seed=2)
    seeds = torch.Generator().manual_seed(0)
    went_on = torch.stack([torch.multinomial(each, len(token), True, generator=seeds) for each in laws], 1)
    at = torch.arange(3)
    said = torch.where(at < accepted.unsqueeze(1), drafted, went_on)
    said = torch.where(at == accepted.unsqueeze(1), token.unsqueeze(1), said)
    for index in range(3):
        assert survival(*chi_square(said[:, index], laws[index])) > 1e-5
    # two tokens that depended on each other would show in their joint law
    assert survival(*chi_square(said[:, 0] * 24 + said[:, 1], torch.outer(laws[0], laws[1]).flatten())) > 1e-5
    bonus = token[accepted == 3]
    assert survival(*chi_square(bonus, targets[3])) > 1e-5


@pytest.mark.parametrize("trials", [(1,), (6, 24, 184)], ids=["mostly dense", "mostly races"])
def test_pcg_block_passes_prefixes_at_the_dense_rate(trials: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept tokens have the law of the block test on the dense sums, whichever way a prefix is decided."""
    groups = table(24, "ragged")
    chosen = [pairs(24)[name] for name in ("smooth", "close", "flat")]
    drafts = torch.stack([draft for draft, _ in chosen])
    targets = torch.stack([target for _, target in chosen] + [pairs(24)["zeros"][1]])
    rows = 20_000
    keys = torch.arange(rows)
    tokens = torch.stack([torch.multinomial(each, rows, True, generator=SEEDS) for each in drafts], 1)
    drawn = groups.draw_group(tokens, Randomness(5, keys).draws(keys % 50, Purpose.GROUP, 3)).long()
    masses = groups.coarse(drafts).expand(rows, -1, -1), groups.coarse(targets).expand(rows, -1, -1)
    ratios = [mass[:, :3].gather(2, drawn.unsqueeze(2)).squeeze(2) for mass in masses]
    one, two, three = keep_probability(*masses, joint_ratio(ratios[1] / ratios[0])).double().unbind(1)
    wanted = torch.stack([(1 - one) * (1 - two) * (1 - three), one * (1 - two) * (1 - three), two * (1 - three), three])

    monkeypatch.setattr(thinning, "TRIALS", trials)
    block = drafts.expand(rows, -1, -1), targets.expand(rows, -1, -1)
    accepted = PCGBlock(groups).verify(tokens, *block, keys % 50, Randomness(5, keys)).accepted
    assert survival(*chi_square(accepted, wanted.mean(1))) > 1e-4


SEEDS = torch.Generator().manual_seed(1)


@pytest.mark.parametrize(
    ("block", "single"), [(Block(), Exact()), (PCGBlock(table(24, "windows")), PCG(table(24, "windows")))]
)
def test_more_is_kept_of_longer_blocks(block: Block | PCGBlock, single: Exact | PCG) -> None:
    drafts = torch.stack([pairs(24)["smooth"][0]] * 4)
    targets = torch.stack([pairs(24)["smooth"][1]] * 5)
    kept = [simulate(rule, drafts, targets, 20_000)[1].double().mean() for rule in (block, single)]
    assert kept[0] > kept[1] * 1.02


def test_a_block_of_one_is_exact() -> None:
    drafts, targets = torch.stack([pairs(24)["smooth"][0]]), torch.stack([pairs(24)["smooth"][1]] * 2)
    ours, exact = (simulate(rule, drafts, targets, 5_000) for rule in (Block(), Exact()))
    assert torch.equal(ours[1], exact[1])
    assert torch.equal(ours[2], exact[2])


def test_a_row_of_equal_distributions_is_kept_whole() -> None:
    same = pairs(24)["smooth"][0].expand(1, 3, 24)
    verdict = Block().verify(
        torch.tensor([[1, 2, 3]]),
        same,
        same[:, :1].expand(1, 4, 24),
        torch.zeros(1).long(),
        Randomness(0, torch.zeros(1).long()),
    )
    assert verdict.accepted.item() == 3
