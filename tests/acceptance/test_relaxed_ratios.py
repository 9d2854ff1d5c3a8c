"""What is special to lantern, gsd, cool and cascade. Their laws are held to sampling with the others', in test_laws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcg.acceptance.cascade import Cascade
from pcg.acceptance.cool import Cool
from pcg.acceptance.exact import Exact
from pcg.acceptance.gsd import GSD, ranking
from pcg.acceptance.lantern import Lantern
from pcg.groups.knn import KNN
from pcg.groups.table import GroupTable
from tests.acceptance.harness import chi_square, emitted, ordered, pairs, simulate, survival, table, worst_token
from tests.acceptance.test_verify import DRAFTS, TARGETS, verify

VOCAB = 24
# Token 1 was drafted with q = .5, p = .2 (test_verify). Its nearest: 3 (p = .1), then 0 (p = .4), then 2 (p = .3).
NEAREST = GroupTable.from_csr(
    torch.tensor([1, 4, 1, 1]), torch.tensor([0, 0, 1, 2, 3, 2, 3]), 4, ranks=torch.tensor([0, 2, 0, 3, 1, 0, 0])
)


@pytest.mark.parametrize(
    ("delta", "accept", "recovered", "answer"),
    [
        (0.05, 0.39, 0.5, (2, 3)),  # nothing is taken: .2/.5, as exact, and exact's residual, token 0
        (0.05, 0.41, 0.9, (0, 0)),
        (0.11, 0.59, 0.5, (2, 3)),  # 3 is taken: (.2 + .1)/.5
        (0.11, 0.61, 0.4, (0, 0)),  # q is zeroed on 0, 2 and 3, which leaves .4, 0, .3, .1 of .8: token 0 to .5,
        (0.11, 0.61, 0.6, (0, 2)),  # token 2 to .875
        (0.11, 0.61, 0.9, (0, 3)),
        (1.51, 0.59, 0.5, (2, 3)),  # (1.51 - 1) .2 = .102: as .1
        (1.49, 0.41, 0.9, (0, 0)),  # .098: nothing is taken
        (0.51, 0.99, 0.5, (2, 3)),  # 3 and 0 are: .7/.5
    ],
)
def test_lantern_by_hand(delta: float, accept: float, recovered: float, answer: tuple[int, int]) -> None:
    numbers = {"accept": [accept, 0.0], "recovered": [recovered]}
    assert verify(Lantern(NEAREST, delta), [1, 0], DRAFTS, TARGETS, **numbers) == answer


def test_lantern_takes_neighbours_in_the_order_of_knn(tmp_path: Path) -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    groupable = torch.arange(40) != 7
    built = KNN(6).build(rows, groupable)
    built.save(tmp_path / "groups.safetensors")
    unit = torch.nn.functional.normalize(rows, dim=1)
    similar = (unit @ unit.t()).fill_diagonal_(-9)
    similar[:, 7] = similar[7] = -9
    ids = torch.arange(40).flip(0) * 2  # of a larger vocabulary
    for groups in (built, GroupTable.load(tmp_path / "groups.safetensors"), built.to("cpu")):
        nearest = Lantern(groups).nearest.long()
        assert torch.equal(nearest[:7], similar[:7].topk(6, 1).indices)
        assert (nearest[7] == 7).all()
    assert torch.equal(Lantern(built.in_vocabulary(ids, 80)).nearest[ids].long(), ids[Lantern(built).nearest.long()])


@pytest.mark.parametrize("groups", [table(VOCAB, "windows"), table(VOCAB, "ragged")])
def test_lantern_needs_an_order(groups: GroupTable) -> None:
    with pytest.raises(ValueError, match="set grouping/groups=knn"):
        Lantern(groups)


def test_lantern_without_room_is_exact() -> None:
    for draft, target in pairs(VOCAB).values():
        torch.testing.assert_close(Lantern(ordered(VOCAB), 1e-9).law(draft, target), target, atol=1e-5, rtol=1e-3)


# Groups {0, 1, 2, 3} of each: token 1 has rank 1 of p = (.4, .2, .3, .1); 3 is one below, 2 and 0 one and two above.
EVERYTHING = GroupTable.from_members([[0, 1, 2, 3]] * 4, 4)


@pytest.mark.parametrize(
    ("ranks", "band", "ratio"),
    [
        (7, 0.5, 1.0),  # all: 1/1
        (1, 0.5, (0.2 + 0.1) / (0.5 + 0.1)),  # one below, none above: 1 and 3
        (2, 0.5, (0.2 + 0.1 + 0.3) / (0.5 + 0.1 + 0.3)),  # two below, one above: 1, 3, 2
        (7, 0.11, (0.2 + 0.1 + 0.3) / (0.5 + 0.1 + 0.3)),  # within .11 of .2: 1, 2, 3
        (7, 0.05, 0.2 / 0.5),  # itself
    ],
)
def test_gsd_by_hand(ranks: int, band: float, ratio: float) -> None:
    rule = GSD(EVERYTHING, ranks, band)
    for accept, answer in ((ratio - 0.01, (2, 3)), (ratio + 0.01, (0, 0))):
        if accept < 1:
            numbers = {"accept": [accept, 0.0], "recovered": [0.5]}
            assert verify(rule, [1, 0], DRAFTS, TARGETS, **numbers) == answer


def test_ranks() -> None:
    assert ranking(torch.tensor([0.4, 0.2, 0.3, 0.1])).tolist() == [3, 1, 2, 0]
    assert ranking(torch.tensor([0.25, 0.25, 0.5])).tolist() == [0, 1, 2]


def test_gsd_of_singletons_is_exact() -> None:
    for draft, target in pairs(VOCAB).values():
        torch.testing.assert_close(GSD(table(VOCAB, "identity")).law(draft, target), target, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("by", "threshold", "mixture"),
    [
        # p = (.4, .2, .3, .1), q = (.1, .5, .3, .1); deferred: 1 and 3, of q = .6
        ("token", 0.4, [0.1 + 0.24, 0.12, 0.3 + 0.18, 0.06]),
        ("token", 0.0, [0.1 + 0.36, 0.18, 0.27, 0.09]),  # all but the best
        ("token", 1.0, [0.1, 0.5, 0.3, 0.1]),  # none
        ("peak", 0.0, [0.1, 0.5, 0.3, 0.1]),  # .5 is not below .4
        ("variation", 0.0, [0.1, 0.5, 0.3, 0.1]),
    ],
)
def test_cascade_by_hand(by: str, threshold: float, mixture: list[float]) -> None:
    draft, target = torch.tensor(DRAFTS[0]), torch.tensor(TARGETS[0])
    torch.testing.assert_close(Cascade(by, threshold).law(draft, target), torch.tensor(mixture))


@pytest.mark.parametrize(("by", "threshold", "deferred"), [
    ("peak", 0.1, True), ("peak", 0.3, False), ("variation", 0.3, True), ("variation", 0.9, False),
])  # fmt: skip
def test_cascade_defers_where_the_draft_is_flat(by: str, threshold: float, deferred: bool) -> None:
    """max p = .5, max q = .3: .2 lower; TV = .3, of which .3 and .9 are .09 and .27."""
    target, draft = torch.tensor([0.5, 0.1, 0.2, 0.2]), torch.tensor([0.2, 0.3, 0.25, 0.25])
    law, alpha = (f(draft, target) for f in (Cascade(by, threshold).law, Cascade(by, threshold).expected_acceptance))
    torch.testing.assert_close(law, target if deferred else draft)
    torch.testing.assert_close(alpha, Exact().expected_acceptance(draft, target) if deferred else torch.tensor(1.0))


def test_cool_by_hand() -> None:
    """Weights 2 and 1: the first token passes up to 2 .2/.5 = .8, the second is tested exactly."""
    rule = Cool(2.0, 0.6931471805599453)
    for accept, answer in (([0.79, 0.99], (2, 3)), ([0.81, 0.0], (0, 0))):
        assert verify(rule, [1, 0], DRAFTS, TARGETS, accept=accept, recovered=[0.5]) == answer
    assert not hasattr(rule, "law")


@pytest.mark.parametrize("delta", [3.0, 0.5])
def test_each_place_of_cool_has_its_law(delta: float) -> None:
    """Weights of 3, 1.5 and .75; of .5 and below, where the law is the target's and less is kept than exact keeps."""
    rule = Cool(delta, 0.6931471805599453)
    kinds = [pairs(VOCAB)[name] for name in ("close", "smooth", "zeros")]
    drafts = torch.stack([draft for draft, _ in kinds])
    targets = torch.stack([target for _, target in kinds] + [kinds[0][1]])
    block = simulate(rule, drafts, targets, 60_000, seed=4)
    for place, (draft, target) in enumerate(kinds):
        law, reached = rule.law_at(place, draft, target), int((block[1] >= place).sum())
        torch.testing.assert_close(law.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
        first = emitted(*block, place)
        assert survival(*chi_square(first, law)) > 1e-5
        assert worst_token(first, law) < 5
        rate = min(rule.acceptance_at(place, draft, target).item(), 1.0)
        kept = int((block[1] > place).sum()) / reached
        assert abs(kept - rate) < 5 * (rate * (1 - rate) / reached) ** 0.5 + 1e-5
        if delta * 0.5**place <= 1:
            torch.testing.assert_close(law, target, atol=1e-6, rtol=1e-4)
            assert rate <= Exact().expected_acceptance(draft, target).item() + 1e-6
    assert survival(*chi_square(emitted(*block, 3), targets[3])) > 1e-5


def test_cool_with_weights_of_one_is_exact() -> None:
    for draft, target in pairs(VOCAB).values():
        drafts, targets = torch.stack([draft] * 3), torch.stack([target] * 4)
        ours, exact = (simulate(rule, drafts, targets, 2_000) for rule in (Cool(1.0, 0.0), Exact()))
        assert all(torch.equal(a, b) for a, b in zip(ours, exact, strict=True))
