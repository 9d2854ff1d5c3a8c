"""Where nobody may look at values (a GPU, a graph) a rule says the same: each stage for all rows, under masks."""

from __future__ import annotations

import pytest
import torch

from pcg.acceptance import thinning
from pcg.sampling import Purpose, Randomness, draw
from pcg.types import Verdict
from tests.acceptance.harness import RULES, pairs

VOCAB = 24


@pytest.mark.parametrize("gamma", [1, 3])
@pytest.mark.parametrize(
    ("name", "trials"),
    [(name, thinning.TRIALS) for name in RULES]
    + [(name, (1, 3)) for name in RULES if name.startswith(("pcg", "coupling"))],
)
def test_the_verdict_is_the_same(
    name: str, trials: tuple[int, ...], gamma: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "TRIALS", trials)  # of few, the dense way is taken
    monkeypatch.setattr(thinning, "MANY", 8)  # where one may look, all rows have few trials first, those then left more
    rule = RULES[name](VOCAB)
    for place, (one, other) in enumerate(pairs(VOCAB).values()):
        drafts, targets = one.expand(gamma, -1), torch.stack([other, one, other, other])[: gamma + 1]
        seen = verdict(rule, drafts, targets, seed=place)
        with monkeypatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            unseen = verdict(rule, drafts, targets, seed=place)
        assert torch.equal(seen.accepted, unseen.accepted)
        assert torch.equal(seen.token, unseen.token)


def verdict(rule: object, drafts: torch.Tensor, targets: torch.Tensor, seed: int) -> Verdict:
    randomness = Randomness(seed, torch.arange(60))
    blocks = draw(drafts.expand(60, -1, -1), randomness.draws(torch.arange(60) % 7, Purpose.TOKEN, len(drafts)))
    both = (each.expand(60, -1, -1) for each in (drafts, targets))
    return rule.verify(blocks, *both, torch.arange(60) % 7, randomness)  # type: ignore[attr-defined]
