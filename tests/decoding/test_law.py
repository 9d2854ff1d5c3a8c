"""Decoding by a rule's law: sequences have the chain of laws; where the law is the target's, so are the tokens."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch

from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.acceptance.ssd import SSD
from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch
from pcg.groups.table import GroupTable
from pcg.sampling import Sampling
from tests.decoding.test_exactness import VOICE, keys, prompts
from tests.fakes import MarkovLM

ROWS, LENGTH = 8_000, 3
SAMPLING = Sampling(temperature=0.8)


@pytest.mark.parametrize("rule", [SSD(0.4), PCG(GroupTable.from_members([[0, 1], [1, 2]], 4))], ids=["ssd", "pcg"])
def test_sequences_have_the_chain_of_laws(rule: SSD | PCG) -> None:
    target, draft = MarkovLM.random(4, seed=1), MarkovLM.random(4, seed=2, shift=5)
    said = decode(target, Batch(prompts(ROWS), SAMPLING, LENGTH, keys(ROWS)), draft=draft, law=rule.law)
    found = Counter((*each.tokens.tolist(), target.end)[: LENGTH if not each.finished else None] for each in said)
    total = 0.0
    for tokens in itertools.product(range(4), repeat=LENGTH):
        before, probability = VOICE.tolist(), 1.0
        for token in tokens:
            probs = [SAMPLING.probabilities(model.table[before[-2], before[-1]]) for model in (draft, target)]
            probability *= rule.law(*probs)[token].item()
            before.append(token)
            if token == target.end:
                break
        sequence = tuple(before[2:])
        if set(tokens[len(sequence) :]) <= {0}:
            total += probability  # of those that begin with the same closed sequence, one
            assert abs(found[sequence] - ROWS * probability) < 5 * (ROWS * probability) ** 0.5 + 1, sequence
    assert total == pytest.approx(1, abs=1e-5)


def test_a_law_that_is_the_targets_says_what_the_target_says() -> None:
    target, draft = MarkovLM.random(9, seed=1), MarkovLM.random(9, seed=2)
    asked = {"sampling": Sampling(repetition_penalty=1.3), "max_tokens": 12, "randomness": keys(20)}
    ours = decode(target, Batch(prompts(20), **asked), draft=draft, law=Exact().law)
    plain = decode(target, Batch(prompts(20), **asked))
    assert [each.tokens.tolist() for each in ours] == [each.tokens.tolist() for each in plain]
    for each in ours:
        assert each.counts["draft_passes"] == each.counts["target_passes"] == each.counts["emitted"]
        assert each.counts["tested"] == each.counts["accepted"] == 0


def test_the_same_tokens_in_any_batch() -> None:
    target, draft = MarkovLM.random(9, seed=1), MarkovLM.random(9, seed=2)
    asked = {"sampling": SAMPLING, "max_tokens": 12}
    whole = decode(target, Batch(prompts(5), randomness=keys(5), **asked), draft=draft, law=SSD(0.4).law)
    for index, each in enumerate(whole):
        key = keys(5).keep(torch.tensor([index]))
        batch = Batch(prompts(5)[index : index + 1], randomness=key, **asked)
        alone = decode(target, batch, draft=draft, law=SSD(0.4).law)
        assert torch.equal(alone[0].tokens, each.tokens)
