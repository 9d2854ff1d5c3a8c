"""FLy: worked by hand, against its law given what follows, the same in any batch, greedy at temperature 0."""

from __future__ import annotations

import pytest
import torch

from pcg.acceptance.exact import Exact
from pcg.acceptance.fly import Fly
from pcg.sampling import Purpose, Randomness, draw
from tests.acceptance.harness import chi_square, emitted, pairs, simulate, survival
from tests.acceptance.test_verify import DRAFTS, GAMMA, TARGETS, blocks, run, verify

VOCAB = 24


@pytest.mark.parametrize(
    ("rule", "accept", "answer"),
    [
        # tokens 1 and 0 have p/q = .4 and 1; here a round has one number for all tests. Entropy of (.4, .3, .2): 1.05
        (Fly(1.04), [0.41], (2, 3)),  # rejected, taken back as token 0 is kept
        (Fly(1.06), [0.41], (0, 0)),  # the target is too sure
        (Fly(1.04, window=2), [0.41], (0, 0)),  # no room for a window of two
        (Fly(0.66, top=1), [0.41], (0, 0)),  # of the largest alone: -.4 log .4 = .367
        (Fly(0.36, top=1), [0.41], (2, 3)),
    ],
)
def test_worked_by_hand(rule: Fly, accept: list[float], answer: tuple[int, int]) -> None:
    assert verify(rule, [1, 0], DRAFTS, TARGETS, accept=accept, recovered=[0.5]) == answer


def test_what_the_target_never_says_is_never_kept() -> None:
    drafts, targets = [[0.5, 0.5, 0.0, 0.0], DRAFTS[1]], [[0.0, 0.4, 0.3, 0.3], TARGETS[1], TARGETS[2]]
    assert verify(Fly(), [0, 0], drafts, targets, accept=[0.5], recovered=[0.1])[0] == 0


@pytest.mark.parametrize("pair", pairs(VOCAB))
def test_the_first_token_follows_its_law(pair: str) -> None:
    """A window of two behind it, whose tokens do not depend on it: A is the product of what exact keeps of them."""
    draft, target = pairs(VOCAB)[pair]
    behind = [pairs(VOCAB)[name] for name in ("close", "smooth")]
    drafts = torch.stack([draft, *(each[0] for each in behind)])
    targets = torch.stack([target, *(each[1] for each in behind), target])
    resumed = torch.stack([Exact().expected_acceptance(*each) for each in behind]).prod().view(1)
    rule, rows = Fly(), 60_000
    block = simulate(rule, drafts, targets, rows)
    law, rate = rule.law_given(draft, target, resumed), min(rule.acceptance_given(draft, target, resumed).item(), 1.0)
    torch.testing.assert_close(law.sum(), torch.tensor(1.0), atol=1e-5, rtol=0)
    assert survival(*chi_square(emitted(*block, 0), law)) > 1e-5
    kept = (block[1] > 0).double().mean().item()
    assert abs(kept - rate) < 5 * (rate * (1 - rate) / rows) ** 0.5 + 1e-5


def test_the_law_holds_where_what_follows_depends_on_the_token() -> None:
    """A window of one, whose distributions are those of the first drafted token."""
    rows, generator = 60_000, torch.Generator().manual_seed(0)
    draft, target = pairs(VOCAB)["smooth"]
    draft_next, target_next = torch.randn(2, VOCAB, VOCAB, generator=generator).mul(1.5).softmax(-1)
    randomness, positions = Randomness(0, torch.arange(rows)), torch.arange(rows) % 50
    uniform = randomness.draws(positions, Purpose.TOKEN, 2)
    first = draw(draft.expand(rows, -1), uniform[:, 0])
    second = draw(draft_next[first], uniform[:, 1])
    drafts = torch.stack([draft.expand(rows, -1), draft_next[first]], 1)
    targets = torch.stack([target.expand(rows, -1), target_next[first], target_next[second]], 1)
    rule = Fly()
    verdict = rule.verify(torch.stack([first, second], 1), drafts, targets, positions, randomness)
    resumed = Exact().expected_acceptance(draft_next, target_next)
    said = torch.where(verdict.accepted > 0, first, verdict.token)
    assert survival(*chi_square(said, rule.law_given(draft, target, resumed))) > 1e-5
    assert survival(*chi_square(said, target)) < 1e-9  # and it is lossy


def test_the_same_verdict_in_any_batch() -> None:
    rule, block = Fly(window=1), blocks(48)
    whole = run(rule, torch.arange(48), *block)
    for rows in torch.randperm(48, generator=torch.Generator().manual_seed(1)).split(5):
        part = run(rule, rows, *block)
        assert torch.equal(part.accepted, whole.accepted[rows])
        assert torch.equal(part.token, whole.token[rows])
    assert (whole.accepted >= run(Fly(100.0), torch.arange(48), *block).accepted).all()


def test_greedy_at_temperature_zero() -> None:
    block = blocks(64, temperature=0.0)
    verdict, best = run(Fly(0.1), torch.arange(64), *block), block[2].argmax(-1)
    assert torch.equal(verdict.accepted, (block[0] == best[:, :GAMMA]).long().cumprod(1).sum(1))
    assert torch.equal(verdict.token, best[torch.arange(64), verdict.accepted])


@pytest.mark.parametrize("values", [{"threshold": -1.0}, {"threshold": float("nan")}, {"window": 0}, {"top": 0}])
def test_bad_parameters_are_one_clear_error(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"Fly: {next(iter(values))}="):
        Fly(**values)  # type: ignore[arg-type]
