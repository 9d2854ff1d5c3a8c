"""Each loss against a case worked by hand, against autograd of the formula, and against its limits."""

from __future__ import annotations

import math

import pytest
import torch

from pcg.groups.table import GroupTable
from pcg.training.losses.coarse_lk import CoarseLK
from pcg.training.losses.kl import KL
from pcg.training.losses.lk import LK
from pcg.training.losses.lk_hybrid import LKHybrid
from pcg.training.losses.tv import TV

TARGET = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]])
DRAFT = torch.tensor([[0.2, 0.5, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1]])
PAIRS = GroupTable.from_members([[0, 1], [2], [3]], 4)  # alpha: min(.8, .7) + .2 + 0 = .9; min(.5, .8) + .1 + .1 = .7
ALPHA = (0.7, 0.55)
DIVERGENCE = (
    0.5 * math.log(0.5 / 0.2) + 0.3 * math.log(0.3 / 0.5),
    0.25 * (math.log(0.25 / 0.7) + 3 * math.log(0.25 / 0.1)),
)
SHARE = math.exp(-3 * sum(ALPHA) / 2)
BY_HAND = {
    "kl": (KL(), sum(DIVERGENCE) / 2),
    "lk": (LK(), -(math.log(0.7) + math.log(0.55)) / 2),
    "tv": (TV(), 1 - sum(ALPHA) / 2),
    "lk_hybrid": (LKHybrid(3.0), SHARE * sum(DIVERGENCE) / 2 + (1 - SHARE) * (1 - sum(ALPHA) / 2)),
    "coarse_lk": (CoarseLK(PAIRS), -(math.log(0.9) + math.log(0.7)) / 2),
}


@pytest.mark.parametrize(("loss", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_by_hand(loss, expected):
    assert float(loss(DRAFT.log(), TARGET)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", [loss for loss, _ in BY_HAND.values()], ids=BY_HAND)
def test_gradients_are_those_of_finite_differences(loss):
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randn(3, 4, dtype=torch.float64).softmax(-1)

    def value(logits):
        if isinstance(loss, LKHybrid):  # no gradient flows through lambda, so it is held here
            alpha = torch.minimum(frozen.softmax(-1), target).sum(-1).mean()
            share = float(torch.exp(-3 * alpha))
            own = logits.log_softmax(-1)
            return share * KL()(own, target) + (1 - share) * TV()(own, target)
        return loss(logits.log_softmax(-1), target)

    frozen = logits.detach().clone()
    (got,) = torch.autograd.grad(loss(logits.log_softmax(-1), target), logits)
    step = 1e-6
    for place in [(0, 0), (1, 2), (2, 3)]:
        moved = [logits.detach().clone() for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        expected = (value(moved[0]) - value(moved[1])) / (2 * step)
        assert float(got[place]) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("loss", [loss for loss, _ in BY_HAND.values()], ids=BY_HAND)
def test_a_draft_equal_to_the_target_has_no_loss(loss):
    target = torch.randn(5, 4).softmax(-1)
    assert float(loss(target.log(), target)) == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_lk_is_that_of_total_variation_over_alpha():
    logits = torch.randn(1, 6, requires_grad=True)
    target = torch.randn(1, 6).softmax(-1)
    (lk,) = torch.autograd.grad(LK()(logits.log_softmax(-1), target), logits)
    tv = TV()(logits.log_softmax(-1), target)
    (plain,) = torch.autograd.grad(tv, logits)
    torch.testing.assert_close(lk, plain / (1 - tv.detach()))


def test_a_hopeless_position_is_finite():
    target = torch.tensor([[1.0, 0.0]])
    draft = torch.tensor([[0.0, 200.0]]).log_softmax(-1)
    for loss in (KL(), LK(), TV(), LKHybrid()):
        assert torch.isfinite(loss(draft, target))
