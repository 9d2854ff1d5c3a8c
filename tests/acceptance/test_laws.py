"""What a rule emits is distributed as its law says, at every position of a block."""

from __future__ import annotations

import pytest
import torch

from pcg.acceptance import coupling, thinning
from tests.acceptance.harness import (
    LOSSLESS,
    RULES,
    TOKENWISE,
    chi_square,
    emitted,
    pairs,
    simulate,
    survival,
    worst_token,
)

ROWS = {24: 200_000, 400: 20_000}


@pytest.mark.parametrize("vocab", ROWS)
@pytest.mark.parametrize("name", RULES)
def test_first_token_follows_the_law(name: str, vocab: int) -> None:
    """Pooled over the pairs this is 840,000 draws at 24 tokens: a bias of 1 % is seen (next test)."""
    rule = RULES[name](vocab)
    statistic, freedom = 0.0, 0
    for pair, (draft, target) in pairs(vocab).items():
        drafted, accepted, token = simulate(rule, draft[None], torch.stack([target, target]), ROWS[vocab])
        first, law = emitted(drafted, accepted, token, 0), rule.law(draft, target)
        torch.testing.assert_close(law.sum(), torch.tensor(1.0), atol=1e-5, rtol=0, msg=pair)
        part = chi_square(first, law)
        assert survival(*part) > 1e-6, pair
        assert worst_token(first, law) < 5, pair
        statistic, freedom = statistic + part[0], freedom + part[1]
        rate = min(rule.expected_acceptance(draft, target).item(), 1.0)
        assert abs((accepted == 1).double().mean().item() - rate) < 5 * (rate * (1 - rate) / ROWS[vocab]) ** 0.5 + 1e-5
    assert survival(statistic, freedom) > 1e-4


def test_the_harness_sees_a_bias_of_one_per_cent() -> None:
    rule = RULES["exact"](24)
    statistic, freedom = 0.0, 0
    for draft, target in pairs(24).values():
        drafted, accepted, token = simulate(rule, draft[None], torch.stack([target, target]), ROWS[24])
        biased = target * torch.where(torch.arange(24) % 4 < 2, 1.01, 0.99)
        part = chi_square(emitted(drafted, accepted, token, 0), biased / biased.sum())
        statistic, freedom = statistic + part[0], freedom + part[1]
    assert survival(statistic, freedom) < 1e-5  # what the law tests fail at


@pytest.mark.parametrize("name", TOKENWISE)
def test_later_tokens_follow_the_law_once_those_before_were_kept(name: str) -> None:
    rule = RULES[name](24)
    kinds = pairs(24)
    chosen = [kinds["close"], kinds["smooth"], kinds["flat"]]
    drafts = torch.stack([draft for draft, _ in chosen])
    targets = torch.stack([target for _, target in chosen] + [kinds["zeros"][1]])
    block = simulate(rule, drafts, targets, 60_000, seed=1)
    for index in (1, 2):
        law = rule.law(drafts[index], targets[index])
        assert survival(*chi_square(emitted(*block, index), law)) > 1e-5
    assert survival(*chi_square(emitted(*block, 3), targets[3])) > 1e-5  # the bonus token


@pytest.mark.parametrize("name", [name for name in TOKENWISE if name.startswith(("pcg", "coupling"))])
def test_the_dense_fallback_has_the_same_law(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one trial most rows take the dense form; coupling sums one row of pairs at a time."""
    monkeypatch.setattr(thinning, "TRIALS", (1,))
    monkeypatch.setattr(coupling, "AT_ONCE", 1)
    rule = RULES[name](24)
    for pair in ("smooth", "close", "zeros", "disjoint"):
        draft, target = pairs(24)[pair]
        block = simulate(rule, draft[None], torch.stack([target, target]), 40_000)
        assert survival(*chi_square(emitted(*block, 0), rule.law(draft, target))) > 1e-5


@pytest.mark.parametrize("name", [*LOSSLESS, "pcg_identity", "ensemble_all_target", "ssd_zero", "vadusa_one"])
def test_lossless_rules_have_the_target_for_a_law(name: str) -> None:
    from pcg.acceptance.ensemble import Ensemble
    from pcg.acceptance.pcg import PCG
    from pcg.acceptance.ssd import SSD
    from pcg.acceptance.vadusa import Vadusa
    from tests.acceptance.harness import table

    others = {
        "pcg_identity": PCG(table(24, "identity")),
        "ensemble_all_target": Ensemble(1.0),
        "ssd_zero": SSD(0.0),
        "vadusa_one": Vadusa(1),
    }
    rule = others.get(name) or RULES[name](24)
    for draft, target in pairs(24).values():
        torch.testing.assert_close(rule.law(draft, target), target, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["topk", "typical", "relaxed", "relaxed_argmax"])
def test_the_truncated_target_is_the_target_given_that_the_token_is_kept(name: str) -> None:
    rule = RULES[name](24)
    for kind, (_, target) in pairs(24).items():
        each = torch.eye(24)  # a draft that is sure of each token in turn
        kept = rule.expected_acceptance(each, target.expand(24, 24))
        torch.testing.assert_close(rule.truncated(target), target * kept / (target * kept).sum(), msg=kind)
