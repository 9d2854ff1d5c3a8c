"""Several candidates: the law is the target's for exact and the groups' for pcg; more of them keep more."""

from __future__ import annotations

import itertools

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.acceptance.candidates import Candidates
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.decoding.tree import StarVerdict
from pcg.sampling import Purpose, Randomness, Sampling, draw
from tests.acceptance.harness import (
    TABLES,
    TOGETHER,
    chi_square,
    pairs,
    survival,
    table,
    types_checked_once,
    worst_token,
)

VOCAB = 24
RULES = {
    "exact": Exact(),
    "pcg": PCG(table(VOCAB, "ragged")),
    "pcg_floor": PCG(table(VOCAB, "ragged"), floor=0.1),
}
MANY = 300_000


def nodes(
    targets: Float[Tensor, "gamma+1 vocab"], after_rivals: Float[Tensor, "vocab"], count: int
) -> Float[Tensor, "nodes vocab"]:
    gamma = len(targets) - 1
    return torch.cat([targets, after_rivals.expand(gamma * (count - 1), -1)])


def simulate(
    rule: Candidates,
    drafts: Float[Tensor, "gamma vocab"],
    target_nodes: Float[Tensor, "nodes vocab"],
    rows: int,
    seed: int = 0,
) -> tuple[Int[Tensor, "rows gamma count"], StarVerdict]:
    """Candidates and verdicts of independent rows."""
    gamma, vocab = drafts.shape
    drafted, verdicts = [], []
    for keys in types_checked_once(torch.arange(rows).split(TOGETHER)):
        randomness, positions = Randomness(seed, keys), keys % 50
        uniform = randomness.draws(positions, Purpose.TOKEN, gamma * rule.count).unflatten(1, (gamma, rule.count))
        expanded = drafts[:, None].expand(len(keys), gamma, rule.count, vocab)
        drafted.append(draw(expanded, uniform))
        rows_of = (each.expand(len(keys), -1, -1) for each in (drafts, target_nodes))
        verdicts.append(rule.verify(drafted[-1], *rows_of, positions, randomness))
    fields = (torch.cat([getattr(each, name) for each in verdicts]) for name in ("accepted", "token", "rival"))
    return torch.cat(drafted), StarVerdict(*fields)


def emitted(drafted: Int[Tensor, "rows gamma count"], verdict: StarVerdict, index: int) -> Int[Tensor, "kept"]:
    """The token at ``index`` of the block, of the rows that kept all before it as first candidates."""
    last = verdict.accepted == index + 1
    chain = (verdict.accepted > index) | ((verdict.accepted == index) & (verdict.rival == 0))
    kept = drafted[torch.arange(len(drafted)), index, torch.where(last, verdict.rival, 0)]
    return torch.where(verdict.accepted > index, kept, verdict.token)[chain]


@pytest.mark.parametrize("name", RULES)
def test_tokens_follow_the_law(name: str) -> None:
    """On the smooth pair a bias of 1 % is seen (next test)."""
    rule = Candidates(RULES[name], 3)
    for pair, (draft, target) in pairs(VOCAB).items():
        rows = MANY if pair == "smooth" else 20_000
        block = simulate(rule, draft[None], nodes(torch.stack([target, target]), target, 3), rows, seed=1)
        law, first = rule.law(draft, target), emitted(*block, 0)
        torch.testing.assert_close(law.sum(), torch.tensor(1.0), atol=1e-5, rtol=0, msg=pair)
        assert survival(*chi_square(first, law)) > 1e-5, pair
        assert worst_token(first, law) < 5, pair
        rate = min(rule.expected_acceptance(draft, target).item(), 1.0)
        kept = (block[1].accepted == 1).double().mean().item()
        assert abs(kept - rate) < 5 * (rate * (1 - rate) / rows) ** 0.5 + 1e-5, pair


def test_a_bias_of_one_per_cent_is_seen() -> None:
    draft, target = pairs(VOCAB)["smooth"]
    biased = target * torch.where(torch.arange(VOCAB) % 4 < 2, 1.01, 0.99)
    block = simulate(Candidates(Exact(), 3), draft[None], nodes(torch.stack([target, target]), target, 3), MANY, 1)
    assert survival(*chi_square(emitted(*block, 0), biased / biased.sum())) < 1e-5


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("shape", TABLES)
def test_exact_keeps_the_targets_law_and_pcg_that_of_groups(shape: str, count: int) -> None:
    """Whatever the groups: the outcome kept or recovered has law P. The token shows it where groups are disjoint."""
    groups = table(VOCAB, shape)
    for draft, target in pairs(VOCAB).values():
        torch.testing.assert_close(Candidates(Exact(), count).law(draft, target), target, atol=1e-6, rtol=1e-4)
        rule = Candidates(PCG(groups), count)
        drafted, wanted = groups.coarse(draft), groups.coarse(target)
        keep, still_open, left = rule._through(drafted, wanted)
        torch.testing.assert_close(drafted * keep + still_open * left, wanted, atol=1e-6, rtol=1e-4)
        if shape in ("identity", "clusters", "everything"):
            torch.testing.assert_close(groups.coarse(rule.law(draft, target)), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("pair", pairs(VOCAB))
def test_more_candidates_keep_more_and_groups_more_than_tokens(pair: str) -> None:
    draft, target = pairs(VOCAB)[pair]
    for rule in RULES.values():
        alphas = [Candidates(rule, count).expected_acceptance(draft, target).item() for count in range(2, 6)]
        assert all(after >= before - 1e-6 for before, after in itertools.pairwise(alphas))
        assert alphas[0] >= rule.expected_acceptance(draft, target).item() - 1e-6
        assert alphas[0] >= Candidates(Exact(), 2).expected_acceptance(draft, target).item() - 1e-6


def test_later_positions_and_what_follows_a_rival_have_their_laws() -> None:
    """The chain's second position once the first candidate was kept, and the bonus after a rival."""
    kinds, count = pairs(VOCAB), 3
    drafts = torch.stack([kinds["close"][0], kinds["flat"][0]])
    targets = torch.stack([kinds["close"][1], kinds["flat"][1], kinds["smooth"][1]])
    for rule in (Candidates(Exact(), count), Candidates(PCG(table(VOCAB, "ragged")), count)):
        drafted, verdict = simulate(rule, drafts, nodes(targets, kinds["zeros"][1], count), 30_000)
        assert survival(*chi_square(emitted(drafted, verdict, 1), rule.law(drafts[1], targets[1]))) > 1e-5
        after = verdict.token[verdict.rival > 0]
        assert len(after) > 1_000
        assert survival(*chi_square(after, kinds["zeros"][1])) > 1e-5
        whole = verdict.token[(verdict.accepted == 2) & (verdict.rival == 0)]
        assert survival(*chi_square(whole, kinds["smooth"][1])) > 1e-5


def test_worked_by_hand() -> None:
    """p = (.4, .6), q = (.8, .2): the first candidate 0 is kept with .5, and what is left is token 1 with certainty."""
    rule = Candidates(Exact(), 2)
    draft, target = torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.6])
    # kept at once .4 + .2; else the second candidate is 1 with .2
    assert rule.expected_acceptance(draft, target).item() == pytest.approx(0.6 + 0.4 * 0.2)
    one = torch.tensor([1.0, 0.0])
    verdicts = {}
    for key in range(40):
        randomness, at = Randomness(0, torch.tensor([key])), torch.tensor([5])
        accept = randomness.draws(at, Purpose.ACCEPT, 2)[0]
        verdict = rule.verify(
            torch.tensor([[[0, 1]]]), draft[None, None], torch.stack([target, target, one])[None], at, randomness
        )
        verdicts[key] = (verdict.accepted.item(), verdict.rival.item())
        # the rival is what is left: p' = 1 against q = .2
        assert verdicts[key] == ((1, 0) if accept[0] < 0.5 else (1, 1))
        if verdicts[key][1]:
            assert verdict.token.item() == 0  # the target's after the rival
    assert len(set(verdicts.values())) == 2


@pytest.mark.parametrize("name", RULES)
def test_a_row_gets_the_same_verdict_in_any_batch(name: str) -> None:
    rule, (draft, target) = Candidates(RULES[name], 3), pairs(VOCAB)["smooth"]
    drafts, after = torch.stack([draft] * 2), nodes(torch.stack([target] * 3), target, 3)
    drafted, whole = simulate(rule, drafts, after, 40)
    for row in range(0, 40, 7):
        key = torch.tensor([row])
        alone = rule.verify(drafted[row : row + 1], drafts[None], after[None], key % 50, Randomness(0, key))
        for name in ("accepted", "token", "rival"):
            assert getattr(alone, name).item() == getattr(whole, name)[row].item()


@pytest.mark.parametrize("rule", [Exact(), PCG(table(VOCAB, "windows"), floor=0.5)], ids=["exact", "pcg_floor"])
def test_greedy_says_the_targets_best_token(rule: Exact | PCG) -> None:
    greedy = Sampling(temperature=0.0)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, 1, VOCAB, generator=generator)
    draft_probs, target_probs = greedy.probabilities(logits)
    tokens = draft_probs.argmax(2, keepdim=True).expand(-1, -1, 3)
    after = torch.cat([target_probs, target_probs, target_probs, target_probs], 1)
    verdict = Candidates(rule, 3).verify(tokens, draft_probs, after, torch.arange(50), Randomness(0, torch.arange(50)))
    said = torch.where(verdict.accepted == 1, tokens[:, 0, 0], verdict.token)
    assert torch.equal(said, target_probs[:, 0].argmax(1))


def test_what_is_no_distribution_is_named() -> None:
    draft, target = pairs(VOCAB)["smooth"]
    after = nodes(torch.stack([target, target]), target, 2)[None].clone()
    after[0, 2, 0] = torch.nan
    with pytest.raises(ValueError, match="target_probs holds NaN"):
        Candidates(Exact(), 2).verify(
            torch.zeros(1, 1, 2, dtype=torch.int64), draft[None, None], after, torch.zeros(1).long(),
            Randomness(0, torch.zeros(1).long()),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "count", "message"),
    [
        (Exact(), 1, "candidates=1: 2 or more are needed"),
        (PCG(table(VOCAB, "windows"), "draft"), 2, "residual=target"),
    ],
)
def test_what_cannot_have_several_candidates_is_named(rule: Exact | PCG, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Candidates(rule, count)
