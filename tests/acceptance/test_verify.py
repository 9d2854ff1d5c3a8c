"""What every rule owes: worked examples, the same verdict in any batch, temperature 0, one error for bad input."""

from __future__ import annotations

import re

import pytest
import torch

from pcg.acceptance.bucket import Bucket
from pcg.acceptance.coupling import Coupling
from pcg.acceptance.ensemble import Ensemble
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.acceptance.pcg_block import PCGBlock
from pcg.acceptance.relaxed import Relaxed
from pcg.acceptance.ssd import SSD
from pcg.acceptance.topk import TopK
from pcg.acceptance.typical import Typical
from pcg.acceptance.vadusa import Vadusa
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, Sampling, draw
from pcg.types import Verdict
from tests.acceptance.harness import LOSSLESS, RULES, table

VOCAB, GAMMA = 24, 3


class Chosen(Randomness):
    """Randomness with chosen numbers by purpose, one for each position from 0."""

    def __init__(self, **numbers: list[float]) -> None:
        super().__init__(0, torch.zeros(1, dtype=torch.long))
        object.__setattr__(self, "chosen", {Purpose[name.upper()]: values for name, values in numbers.items()})

    def uniform(self, positions, purpose):  # type: ignore[no-untyped-def]
        purposes = torch.as_tensor(purpose).broadcast_to(
            torch.broadcast_shapes(positions.shape, torch.as_tensor(purpose).shape)
        )
        flat = [
            self._at(int(p), int(at))
            for p, at in zip(purposes.flatten(), positions.expand_as(purposes).flatten(), strict=True)
        ]
        return torch.tensor(flat, dtype=torch.float64).view(purposes.shape)

    def draws(self, positions, purpose, count):  # type: ignore[no-untyped-def]
        numbers = self.uniform(positions, purpose)
        return numbers.unsqueeze(-1).expand(*numbers.shape, count).clone()

    def block(self, positions, length):  # type: ignore[no-untyped-def]
        at = positions[:, None, None] + torch.arange(length)[:, None]
        return self.uniform(at, torch.arange(len(Purpose)))

    def keep(self, rows):  # type: ignore[no-untyped-def]
        return self

    def _at(self, purpose: int, position: int) -> float:
        values = self.chosen.get(Purpose(purpose), [0.5])
        return values[min(position, len(values) - 1)]


def verify(
    rule: object, tokens: list[int], drafts: list[list[float]], targets: list[list[float]], **numbers: list[float]
) -> tuple[int, int]:
    verdict = rule.verify(  # type: ignore[attr-defined]
        torch.tensor([tokens]), torch.tensor([drafts]), torch.tensor([targets]), torch.tensor([0]), Chosen(**numbers)
    )
    return verdict.accepted.item(), verdict.token.item()


# Two drafted tokens over {0, 1, 2, 3}. At the first position token 1 has q = .5, p = .2; at the second token 0 has
# q = .4, p = .4. Residual of the first position: (.3, 0, 0, 0) / .3 -> token 0; the bonus row gives token 3.
DRAFTS = [[0.1, 0.5, 0.3, 0.1], [0.4, 0.3, 0.2, 0.1]]
TARGETS = [[0.4, 0.2, 0.3, 0.1], [0.4, 0.2, 0.1, 0.3], [0.0, 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("rule", "accept", "recovered", "answer"),
    [
        # .39 < .2/.5 = .4 keeps token 1, and .99 < 1 token 0: the whole block, then the bonus
        (Exact(), [0.39, 0.99], [0.5], (2, 3)),
        # .41 does not: nothing is kept, and only token 0 is in the residual
        (Exact(), [0.41, 0.0], [0.99], (0, 0)),
        # .69 < .4 + .3, .71 is not
        (SSD(0.3), [0.69, 0.0], [0.5], (2, 3)),
        (SSD(0.3), [0.71, 0.0], [0.5], (0, 0)),
        # 1 - .5 + .5 * .4 = .7
        (Ensemble(0.5), [0.69, 0.0], [0.5], (2, 3)),
        (Ensemble(0.5), [0.71, 0.0], [0.5], (0, 0)),
        # H(p) = 1.28 nats at the first position, so delta exp(-H) = .278 delta; .2 > .195 but not > .222
        (Typical(1.0, 0.7), [0.5], [0.39], (2, 3)),
        (Typical(1.0, 0.8), [0.5], [0.39], (0, 0)),  # a draw from p: .39 falls into token 0's .4
        (Typical(1.0, 0.8), [0.5], [0.41], (0, 1)),  # .41 into token 1's .2
        (Typical(0.19, 0.8), [0.5], [0.41], (2, 3)),  # eps caps the threshold
        # token 1 is the target's third: k = 3 keeps it, k = 2 does not, and recovers within {0, 2}: .6 * .7 = .42
        (TopK(3), [0.5], [0.5], (2, 3)),
        (TopK(2), [0.5], [0.56], (0, 0)),
        (TopK(2), [0.5], [0.58], (0, 2)),
        # .2 >= .4 - .2, but not >= .4 - .15
        (Relaxed(4, 0.2001), [0.5], [0.5], (2, 3)),
        (Relaxed(4, 0.15), [0.5], [0.95], (0, 3)),
        (Relaxed(4, 0.15, "argmax"), [0.5], [0.95], (0, 0)),
        (Relaxed(2, 0.9), [0.5], [0.95], (0, 3)),  # not among the two best
    ],
)
def test_worked_by_hand(rule: object, accept: list[float], recovered: list[float], answer: tuple[int, int]) -> None:
    assert verify(rule, [1, 0], DRAFTS, TARGETS, accept=accept, recovered=recovered) == answer


@pytest.mark.parametrize(("trial", "answer"), [([0.45, 0.2], (2, 3)), ([0.65, 0.2], (0, 2)), ([0.45, 0.95], (1, 3))])
def test_vadusa_by_hand(trial: list[float], answer: tuple[int, int]) -> None:
    """Every draw at a position is the same number here: .45 draws token 1 first, .2 token 0 second, .65 token 2."""
    assert verify(Vadusa(3), [1, 0], DRAFTS, TARGETS, trial=trial) == answer


# Groups {0, 1}, {1, 2}, {3}: token 1 is split in halves. First position:
# P_c = (.4 + .1, .1 + .3, .1) = (.5, .4, .1), Q_c = (.1 + .25, .25 + .3, .1) = (.35, .55, .1).
GROUPS = GroupTable.from_members([[0, 1], [1, 2], [3]], 4)


@pytest.mark.parametrize(
    ("rule", "group", "accept", "trial", "answer"),
    [
        (PCG(GROUPS), 0.4, [0.99, 0.0], 0.5, (2, 3)),  # group {0,1}: .5/.35, always kept
        (PCG(GROUPS), 0.6, [0.72, 0.0], 0.5, (2, 3)),  # group {1,2}: .4/.55 = .727
        # rejected; every trial draws token 0 (.2 < .4), in group {0,1}, kept with 1 - .35/.5 = .3 > .2
        (PCG(GROUPS), 0.6, [0.73, 0.0], 0.2, (0, 0)),
        # every trial draws token 2, whose group lost mass: the dense way. By the target, the residual group {0,1}
        # emits token 0 with .4/.5 = .8: token 0 for .79, token 1 for .81
        (PCG(GROUPS), 0.6, [0.73, 0.0], 0.7, (0, 0)),
        # the draft picks in {0,1}: token 0 with .1/.35 = .286, so .5 is token 1
        (PCG(GROUPS, "draft"), 0.6, [0.73, 0.0], 0.7, (0, 1)),
        (PCG(GROUPS, "draft"), 0.6, [0.73, 0.0], 0.2, (0, 1)),
    ],
)
def test_pcg_by_hand(rule: PCG, group: float, accept: list[float], trial: float, answer: tuple[int, int]) -> None:
    numbers = {"group": [group], "accept": accept, "trial": [trial], "recovered": [0.5]}
    assert verify(rule, [1, 0], DRAFTS, TARGETS, **numbers) == answer
    torch.testing.assert_close(GROUPS.coarse(torch.tensor(TARGETS[0])), torch.tensor([0.5, 0.4, 0.1]))
    torch.testing.assert_close(GROUPS.coarse(torch.tensor(DRAFTS[0])), torch.tensor([0.35, 0.55, 0.1]))


@pytest.mark.parametrize(
    ("recovered", "answer"),
    [
        ([0.7, 0.5], (2, 3)),  # y = 2 shares {1,2} with x = 1, then y = 1 shares {0,1} with x = 0
        ([0.95, 0.5], (0, 3)),  # y = 3 is alone
        ([0.7, 0.9], (1, 3)),
    ],
)
def test_bucket_by_hand(recovered: list[float], answer: tuple[int, int]) -> None:
    assert verify(Bucket(GROUPS), [1, 0], DRAFTS, TARGETS, recovered=recovered) == answer


def blocks(rows: int, seed: int = 0, temperature: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    sampling = Sampling(temperature=temperature)
    target = torch.randn(rows, GAMMA + 1, VOCAB, generator=generator) * 2
    draft = target[:, :GAMMA] + torch.randn(rows, GAMMA, VOCAB, generator=generator)
    draft_probs, target_probs = sampling.probabilities(draft), sampling.probabilities(target)
    tokens = draw(draft_probs, torch.rand(rows, GAMMA, generator=generator, dtype=torch.float64))
    return tokens, draft_probs, target_probs, torch.arange(rows) * 5, torch.arange(rows) + 1000


def run(rule: object, rows: torch.Tensor, *block: torch.Tensor) -> Verdict:
    tokens, draft_probs, target_probs, positions, keys = (x[rows] for x in block)
    return rule.verify(tokens, draft_probs, target_probs, positions, Randomness(7, keys))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", RULES)
def test_the_same_verdict_in_any_batch_and_order(name: str) -> None:
    rule, block = RULES[name](VOCAB), blocks(48)
    whole = run(rule, torch.arange(48), *block)
    for size in (1, 3, 8):
        for rows in torch.randperm(48, generator=torch.Generator().manual_seed(size)).split(size):
            part = run(rule, rows, *block)
            assert torch.equal(part.accepted, whole.accepted[rows])
            assert torch.equal(part.token, whole.token[rows])
    assert 0 < whole.accepted.sum() < 48 * GAMMA


@pytest.mark.parametrize("name", RULES)
def test_a_seeded_case_does_not_change(name: str) -> None:
    verdict = run(RULES[name](VOCAB), torch.arange(6), *blocks(6, seed=3))
    assert [verdict.accepted.tolist(), verdict.token.tolist()] == SEEDED[name]


SEEDED: dict[str, list[list[int]]] = {
    "exact": [[0, 1, 0, 1, 3, 1], [6, 10, 7, 20, 2, 3]],
    "ssd": [[0, 3, 3, 1, 3, 1], [6, 16, 7, 20, 2, 3]],
    "ensemble": [[0, 1, 3, 1, 3, 1], [6, 10, 7, 20, 2, 3]],
    "typical": [[0, 0, 3, 1, 3, 1], [6, 20, 7, 6, 2, 4]],
    "topk": [[0, 0, 3, 3, 3, 1], [6, 20, 7, 17, 2, 4]],
    "relaxed": [[0, 0, 0, 0, 3, 1], [6, 20, 7, 1, 2, 4]],
    "relaxed_argmax": [[0, 0, 0, 0, 3, 1], [6, 20, 15, 0, 2, 1]],
    "vadusa": [[1, 0, 0, 0, 2, 1], [0, 9, 20, 3, 1, 12]],
    "bucket": [[0, 0, 0, 1, 2, 1], [6, 20, 7, 6, 1, 4]],
    "pcg": [[3, 1, 3, 3, 3, 1], [12, 12, 7, 17, 2, 4]],
    "pcg_draft": [[3, 1, 3, 3, 3, 1], [12, 16, 7, 17, 2, 4]],
    "pcg_ragged": [[0, 1, 3, 1, 3, 3], [6, 12, 7, 20, 2, 10]],
    "pcg_draft_ragged": [[0, 1, 3, 1, 3, 3], [6, 19, 7, 13, 2, 10]],
    "coupling": [[0, 3, 0, 1, 3, 1], [20, 16, 15, 20, 2, 4]],
    "coupling_ragged": [[2, 1, 3, 1, 3, 3], [1, 18, 7, 20, 2, 10]],
    "coupling_floor": [[2, 1, 3, 1, 3, 1], [1, 18, 7, 20, 2, 4]],
    "cascade": [[0, 3, 0, 1, 3, 1], [6, 16, 7, 20, 2, 4]],
    "gsd": [[0, 1, 3, 1, 3, 1], [6, 10, 7, 20, 2, 3]],
    "lantern": [[0, 1, 3, 3, 3, 1], [6, 10, 7, 17, 2, 3]],
    "lantern_plus": [[0, 1, 0, 1, 3, 1], [6, 10, 7, 20, 2, 3]],
    "block": [[3, 1, 3, 1, 1, 3], [12, 10, 7, 20, 20, 10]],
    "pcg_block": [[3, 0, 3, 0, 0, 3], [12, 10, 7, 16, 19, 10]],
    "pcg_floor": [[0, 1, 3, 1, 3, 1], [1, 12, 7, 20, 2, 4]],
    "pcg_draft_floor": [[0, 1, 3, 1, 3, 1], [1, 12, 7, 20, 2, 4]],
    "pcg_block_floor": [[3, 1, 3, 0, 0, 3], [12, 12, 7, 0, 17, 10]],
}


FLOORED = ("pcg_floor", "pcg_draft_floor", "pcg_block_floor", "coupling_floor")  # the best token stands alone


@pytest.mark.parametrize("name", [*LOSSLESS, *FLOORED, "typical", "topk", "relaxed", "vadusa"])
def test_greedy_at_temperature_zero(name: str) -> None:
    """What is emitted is the target's most likely token at each position, as plain greedy decoding."""
    tokens, draft_probs, target_probs, positions, keys = blocks(64, temperature=0.0)
    verdict = run(RULES[name](VOCAB), torch.arange(64), tokens, draft_probs, target_probs, positions, keys)
    best = target_probs.argmax(-1)
    agree = (tokens == best[:, :GAMMA]).long().cumprod(1).sum(1)
    assert torch.equal(verdict.accepted, agree)
    assert torch.equal(verdict.token, best[torch.arange(64), agree])


@pytest.mark.parametrize("name", RULES)
def test_temperature_zero_never_leaves_the_support(name: str) -> None:
    tokens, draft_probs, target_probs, positions, keys = blocks(64, temperature=0.0)
    verdict = run(RULES[name](VOCAB), torch.arange(64), tokens, draft_probs, target_probs, positions, keys)
    at = torch.arange(64)
    target = target_probs[at, verdict.accepted, verdict.token] > 0
    draft = draft_probs[at, verdict.accepted.clamp(max=GAMMA - 1), verdict.token] > 0
    assert (target | draft).all()


COMPARING = tuple(
    name
    for name in RULES
    if name.startswith(("exact", "ssd", "ensemble", "pcg", "block", "coupling", "gsd", "lantern"))
)


@pytest.mark.parametrize("name", COMPARING)
def test_identical_models_are_always_kept_by_rules_that_compare_them(name: str) -> None:
    tokens, draft_probs, target_probs, positions, keys = blocks(64)
    target_probs[:, :GAMMA] = draft_probs
    verdict = run(RULES[name](VOCAB), torch.arange(64), tokens, draft_probs, target_probs, positions, keys)
    assert (verdict.accepted == GAMMA).all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("which", ["draft_probs", "target_probs"])
def test_every_rule_checks_its_distributions(name: str, which: str) -> None:
    tokens, draft_probs, target_probs, positions, keys = blocks(2)
    {"draft_probs": draft_probs, "target_probs": target_probs}[which][0, 1, 3] = torch.nan
    rule = RULES[name](VOCAB)
    with pytest.raises(ValueError, match=f"{which} .*NaN"):
        run(rule, torch.arange(2), tokens, draft_probs, target_probs, positions, keys)
    with pytest.raises(ValueError, match="NaN"):
        rule.law(draft_probs, target_probs[:, :GAMMA])  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="NaN"):
        rule.expected_acceptance(draft_probs, target_probs[:, :GAMMA])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[0, 2, 3].fill_(torch.nan), "NaN"),
        (lambda x: x[0, 0].mul_(2), "not normalised"),
        (lambda x: (x[0, 0, 0].sub_(2), x[0, 0, 1].add_(2)), "negative"),
    ],
)
def test_what_is_no_distribution_is_named(spoil, message: str) -> None:  # type: ignore[no-untyped-def]
    block = blocks(2)
    spoil(block[2])
    with pytest.raises(ValueError, match=f"target_probs .*{message}"):
        run(Exact(), torch.arange(2), *block)


@pytest.mark.parametrize("name", ["bucket", "pcg", "pcg_block", "coupling", "gsd", "lantern"])
def test_groups_over_another_vocabulary_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape("the groups are over 30 tokens, the models over 24")):
        run(RULES[name](30), torch.arange(2), *blocks(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SSD(-0.1), "beta=-0.1"),
        (lambda: SSD(float("nan")), "beta=nan"),
        (lambda: TopK(0), "k=0"),
        (lambda: Relaxed(0, -1.0, "best"), "k=0.*delta=-1.0.*recover='best'"),
        (lambda: Typical(-1.0), "eps=-1.0"),
        (lambda: Ensemble(1.5), "w=1.5"),
        (lambda: Vadusa(0), "draws=0"),
        (lambda: PCG(table(VOCAB, "windows"), "both"), "residual='both'"),
        (lambda: PCG(table(VOCAB, "windows"), floor=0.0), "floor=0.0: above 0"),
        (lambda: PCGBlock(table(VOCAB, "windows"), 1.5), "floor=1.5"),
        (lambda: Coupling(table(VOCAB, "windows"), 0.0), "floor=0.0"),
    ],
)
def test_bad_parameters_are_one_clear_error(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
