"""What is special to coupling: what docs/coupling.md claims, each claim a test."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from scipy.optimize import linprog
from torch import Tensor

from pcg.acceptance import coupling as coupling_module
from pcg.acceptance import thinning
from pcg.acceptance.coupling import Coupling
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.groups import alike as alike_module
from pcg.groups.alike import Alike
from pcg.groups.table import GroupTable
from pcg.sampling import Randomness, Sampling
from tests.acceptance.harness import TABLES, pairs, simulate, table
from tests.acceptance.test_verify import verify

VOCAB = 24
SHAPES = [shape for shape in TABLES if shape not in ("identity", "everything")]


def relation(groups: GroupTable) -> Bool[Tensor, "vocab vocab"]:
    """Row x: ``N(x)``, by the definition."""
    members = [set(group.tolist()) for group in groups.members.split(groups.sizes.tolist())]
    alike = torch.zeros(groups.vocab_size, groups.vocab_size, dtype=torch.bool)
    if len(members) == groups.vocab_size and all(k in group for k, group in enumerate(members)):
        for k, group in enumerate(members):
            alike[k, list(group)] = True
        return alike
    for group in members:
        alike[numpy.ix_(list(group), list(group))] = True
    return alike


def flow_of(
    draft: Float[Tensor, "vocab"], target: Float[Tensor, "vocab"], alike: Bool[Tensor, "vocab vocab"], floor: float = 0
) -> Float[Tensor, "vocab vocab"]:
    """DESIGN's formula, pair by pair, from tokens that the target gives at least ``floor`` of its largest."""
    over, under = (draft - target).clamp(min=0), (target - draft).clamp(min=0)
    over = over * (target >= floor * target.max())
    related = alike.double()
    largest = torch.maximum((over @ related)[None, :], (related @ under)[:, None])
    return torch.where(largest > 0, over[:, None] * under[None, :] / largest, 0.0) * related


def most_along(
    draft: Float[Tensor, "vocab"], target: Float[Tensor, "vocab"], alike: Bool[Tensor, "vocab vocab"]
) -> float:
    """The maximal flow from draft to target along alike pairs, a linear programme."""
    x, y = alike.nonzero(as_tuple=True)
    edges = numpy.arange(len(x))
    sides = numpy.zeros((2 * len(draft), len(x)))
    sides[x, edges], sides[len(draft) + y, edges] = 1, 1
    found = linprog(-numpy.ones(len(x)), A_ub=sides, b_ub=torch.cat([draft, target]).numpy(), method="highs")
    return -found.fun


@pytest.mark.parametrize("floor", [None, 0.2])
@pytest.mark.parametrize("shape", TABLES)
@pytest.mark.parametrize("pair", pairs(VOCAB))
def test_the_law_is_that_of_the_flow(shape: str, pair: str, floor: float | None) -> None:
    groups, (draft, target) = table(VOCAB, shape), (probs.double() for probs in pairs(VOCAB)[pair])
    flow = flow_of(draft, target, relation(groups), floor or 0)
    over, under = (draft - target).clamp(min=0), (target - draft).clamp(min=0)
    assert (flow.sum(1) <= over + 1e-12).all()
    assert (flow.sum(0) <= under + 1e-12).all()
    rule = Coupling(groups, floor)
    wanted = draft.minimum(target) + flow.sum(1) + under - flow.sum(0)
    torch.testing.assert_close(rule.law(draft, target), wanted, atol=1e-12, rtol=1e-9)
    alpha = draft.minimum(target).sum() + flow.sum()
    torch.testing.assert_close(rule.expected_acceptance(draft, target), alpha, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("shape", TABLES)
@pytest.mark.parametrize("pair", pairs(VOCAB))
def test_law_and_target_can_be_paired_along_the_relation(shape: str, pair: str) -> None:
    """A token of the law and one of the target, each with its law, always equal or alike: the flow is all of it."""
    groups, (draft, target) = table(VOCAB, shape), (probs.double() for probs in pairs(VOCAB)[pair])
    law = Coupling(groups).law(draft, target)
    assert most_along(law, target, relation(groups)) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("shape", TABLES)
@pytest.mark.parametrize("pair", pairs(VOCAB))
def test_alpha_is_between_exacts_and_the_maximal_flow_and_total_variation_is_the_least(shape: str, pair: str) -> None:
    groups, (draft, target) = table(VOCAB, shape), (probs.double() for probs in pairs(VOCAB)[pair])
    rule, exact = Coupling(groups), Exact().expected_acceptance(draft, target)
    alpha, most = rule.expected_acceptance(draft, target), most_along(draft, target, relation(groups))
    assert exact - 1e-9 <= alpha <= most + 1e-7
    assert alpha - exact >= 0.4 * (most - exact) - 1e-7  # how near one local step comes: at worst; .7 on average
    if shape in ("identity", "clusters", "everything"):  # disjoint groups: all of it
        assert alpha == pytest.approx(most, abs=1e-7)
    # no rule of this alpha is nearer: what is kept of t is at most min(law(t), q(t)), and sum min(law, q) <= exact + TV
    distance = (rule.law(draft, target) - target).abs().sum() / 2
    torch.testing.assert_close(distance, alpha - exact, atol=1e-12, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_table_gives_a_coupling(data: st.DataObject) -> None:
    vocab = data.draw(st.integers(2, 10))
    members = data.draw(st.lists(st.sets(st.integers(0, vocab - 1), min_size=1), max_size=vocab))
    groups = GroupTable.from_members([sorted(group) for group in members], vocab)
    weights = st.lists(st.floats(0, 1), min_size=vocab, max_size=vocab).filter(lambda x: sum(x) > 0.01)
    draft, target = (torch.tensor(w, dtype=torch.float64) / sum(w) for w in (data.draw(weights), data.draw(weights)))
    rule = Coupling(groups)
    law, alpha = rule.law(draft, target), rule.expected_acceptance(draft, target).item()
    assert law.min() >= 0
    assert law.sum().item() == pytest.approx(1, abs=1e-9)
    assert Exact().expected_acceptance(draft, target).item() - 1e-9 <= alpha <= 1 + 1e-9
    assert alpha <= most_along(draft, target, relation(groups)) + 1e-7


@pytest.mark.parametrize("pair", ["smooth", "near one-hot", "zeros", "close"])
def test_with_a_floor_no_token_that_the_target_would_hardly_say_gains(pair: str) -> None:
    """Nor does the rule keep more; and the law is nearer to the target by what it keeps less."""
    groups, floor, (draft, target) = table(VOCAB, "nearest"), 0.2, (probs.double() for probs in pairs(VOCAB)[pair])
    floored, free = Coupling(groups, floor), Coupling(groups)
    law, implausible = floored.law(draft, target), target < floor * target.max()
    assert (law[implausible] <= target[implausible] + 1e-12).all()
    assert (free.law(draft, target) > target + 1e-9)[implausible].any()
    alpha, exact = floored.expected_acceptance(draft, target), Exact().expected_acceptance(draft, target)
    assert exact - 1e-12 <= alpha <= free.expected_acceptance(draft, target) + 1e-12
    torch.testing.assert_close((law - target).abs().sum() / 2, alpha - exact, atol=1e-12, rtol=1e-9)


def test_a_floor_that_nothing_is_below_changes_nothing() -> None:
    for draft, target in (pairs(VOCAB)[name] for name in ("smooth", "near one-hot", "flat")):
        drafts, targets = torch.stack([draft] * 3), torch.stack([target] * 4)
        floored, free = (simulate(Coupling(table(VOCAB, "ragged"), f), drafts, targets, 2_000) for f in (1e-9, None))
        assert all(torch.equal(a, b) for a, b in zip(floored, free, strict=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_what_exact_keeps_is_kept_on_the_same_number(shape: str) -> None:
    for draft, target in pairs(VOCAB).values():
        drafts, targets = torch.stack([draft] * 3), torch.stack([target] * 4)
        ours, exact = (simulate(rule, drafts, targets, 2_000) for rule in (Coupling(table(VOCAB, shape)), Exact()))
        assert (ours[1] >= exact[1]).all()


def test_singletons_give_exact_and_one_group_of_everything_accepts_always() -> None:
    for draft, target in pairs(VOCAB).values():
        drafts, targets = torch.stack([draft] * 3), torch.stack([target] * 4)
        alone, exact = (
            simulate(rule, drafts, targets, 2_000) for rule in (Coupling(table(VOCAB, "identity")), Exact())
        )
        assert torch.equal(alone[1], exact[1])
        torch.testing.assert_close(Coupling(table(VOCAB, "identity")).law(draft, target), target)
        assert (simulate(Coupling(table(VOCAB, "everything")), drafts, targets, 2_000)[1] == 3).all()


def test_at_temperature_zero_a_token_alike_to_the_targets_best_is_kept() -> None:
    groups, greedy = table(VOCAB, "nearest"), Sampling(temperature=0.0)
    logits = torch.randn(2, 300, VOCAB, generator=torch.Generator().manual_seed(0))
    draft, target = greedy.probabilities(logits)
    keys, best = torch.arange(300), target.argmax(1)
    tokens = draft.argmax(1, keepdim=True)
    verdict = Coupling(groups).verify(
        tokens, draft[:, None], torch.stack([target, target], 1), keys, Randomness(0, keys)
    )
    assert torch.equal(verdict.accepted == 1, relation(groups)[tokens[:, 0], best])
    assert torch.equal(verdict.token, best)  # recovered, or the bonus of the same distribution
    assert 0 < verdict.accepted.sum() < 300


def test_with_disjoint_groups_pcg_keeps_as_much_and_is_no_nearer() -> None:
    groups = table(VOCAB, "clusters")
    for draft, target in pairs(VOCAB).values():
        ours, theirs = (rule(groups).expected_acceptance(draft, target) for rule in (Coupling, PCG))
        torch.testing.assert_close(ours, theirs)
        near, far = ((rule(groups).law(draft, target) - target).abs().sum() for rule in (Coupling, PCG))
        assert near <= far + 1e-6


# N(0) = {0, 1, 2}, N(3) = {2, 3}, the others are alone: not symmetric. over(0) = .3, over(3) = .1; under(1) = .2,
# under(2) = under(4) = .1. U(0) = .3, U(3) = .1; O(1) = .3, O(2) = .4, O(4) = 0.
# flow(0, 1) = .3 .2/.3 = .2, flow(0, 2) = .3 .1/.4 = .075, flow(3, 2) = .1 .1/.4 = .025. Left of under: token 4's .1.
HAND = GroupTable.from_members([[0, 1, 2], [1], [2], [2, 3], [4]], 5)
DRAFT, TARGET, BONUS = [0.4, 0.1, 0.1, 0.3, 0.1], [0.1, 0.3, 0.2, 0.2, 0.2], [0.0, 1.0, 0.0, 0.0, 0.0]


def test_the_law_by_hand() -> None:
    draft, target = torch.tensor(DRAFT), torch.tensor(TARGET)
    torch.testing.assert_close(Coupling(HAND).law(draft, target), torch.tensor([0.375, 0.1, 0.1, 0.225, 0.2]))
    torch.testing.assert_close(Coupling(HAND).expected_acceptance(draft, target), torch.tensor(0.9))


@pytest.mark.parametrize(
    ("token", "accept", "group", "trial", "answer"),
    [
        (0, 0.24, 0.9, 0.5, (1, 1)),  # .24 < .1/.4, as exact; then the bonus
        (0, 0.99, 0.6, 0.5, (1, 1)),  # asks token 1 (.6 < .2/.3), which takes all that it is asked: U = O
        (0, 0.81, 0.7, 0.5, (1, 1)),  # asks token 2, which takes .3/.4: up to .25 + .75 .75 = .8125
        (0, 0.82, 0.7, 0.9, (0, 4)),  # a trial proposes token 4, of which nothing flows
        (0, 0.82, 0.7, 0.6, (0, 4)),  # all propose token 2, of which everything flows: the dense way
        (3, 0.74, 0.5, 0.9, (1, 1)),  # asks token 2, which takes .1/.4: up to 2/3 + .25/3 = .75
        (3, 0.76, 0.5, 0.9, (0, 4)),
        (1, 0.99, 0.5, 0.5, (1, 1)),  # what the target says more often is always kept
    ],
)
def test_by_hand(token: int, accept: float, group: float, trial: float, answer: tuple[int, int]) -> None:
    numbers = {"accept": [accept], "group": [group], "trial": [trial], "bonus": [0.5]}
    assert verify(Coupling(HAND), [token], [DRAFT], [TARGET, BONUS], **numbers) == answer


@pytest.mark.parametrize("shape", TABLES)
def test_neighbours_are_those_of_the_definition(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, every = table(VOCAB, shape), torch.arange(VOCAB)
    wanted = relation(groups)
    values = torch.rand(VOCAB, dtype=torch.float64)
    for small in (alike_module.SMALL, 0):  # of a large table no padded rows are kept
        monkeypatch.setattr(alike_module, "SMALL", small)
        alike = Alike.of(groups)
        for neighbours, matrix in ((alike.near, wanted), (alike.back, wanted.t())):
            assert (neighbours.padded is None) == (small == 0)
            for token, ids in enumerate(neighbours.of(every).tolist()):
                assert set(ids) == set(matrix[token].nonzero().flatten().tolist())
                assert len([i for i in ids if i != token]) == int(matrix[token].sum()) - 1
            torch.testing.assert_close(neighbours.total(values), matrix.double() @ values)
    assert alike.disjoint == (shape in ("clusters", "everything"))
    assert alike.reversed.near is alike.back


def test_too_many_pairs_of_overlapping_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alike_module, "MOST", 20)
    with pytest.raises(ValueError, match="more than 20 pairs of tokens share one of these overlapping groups"):
        Coupling(table(VOCAB, "ragged"))


def test_no_sum_over_all_pairs_is_made_where_thinning_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coupling_module, "paired", None)
    monkeypatch.setattr(thinning, "TRIALS", (256,))
    draft, target = pairs(VOCAB)["disjoint"]
    verdict = simulate(Coupling(table(VOCAB, "windows")), draft[None], torch.stack([target, target]), 200)
    assert 0 < verdict[1].sum() < 200


@pytest.mark.parametrize(
    ("many", "compiling", "wanted", "summed"),
    [(1, False, False, 0), (1, False, True, 1), (1, True, False, 1), (1 << 24, False, False, 1)],
)
def test_a_gpu_waits_to_be_spared_a_large_sum_that_no_row_needs(
    many: int, compiling: bool, wanted: bool, summed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a graph it may not wait, and where the sum is small it need not."""
    rule, (draft, target) = Coupling(table(VOCAB, "windows")), pairs(VOCAB)["smooth"]
    calls, honest = [], coupling_module.paired
    monkeypatch.setattr(coupling_module, "paired", lambda *given: calls.append(given) or honest(*given))
    monkeypatch.setattr(coupling_module, "MANY", many)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiling)
    coupling_module.PairResidual(rule.alike, draft[None], target[None]).weights(torch.tensor(wanted))
    assert len(calls) == summed
