"""Speculative decoding with the exact rule says what plain decoding says: in law, and token for token when greedy."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from pcg.acceptance.block import Block
from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.sampling import RAS, Randomness, Sampling
from pcg.types import Utterance
from tests.fakes import ExactRule, MarkovLM, law_after

VOICE = torch.tensor([0, 1])
ROWS = 8_000


def prompts(count: int, voice: Tensor | None = VOICE) -> list[Prompt]:
    return [Prompt(Utterance(str(i), "text"), voice) for i in range(count)]


def keys(count: int, seed: int = 0) -> Randomness:
    return Randomness(seed, torch.arange(count) * 7919 + 13)


def sequence_law(model: MarkovLM, sampling: Sampling, length: int, voice: Tensor) -> dict[tuple[int, ...], float]:
    """Probability of every sequence of at most ``length`` tokens, by the chain rule; end-of-speech closes one."""
    law: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(range(model.vocab_size), repeat=length):
        said, probability = voice.tolist(), 1.0
        for token in tokens:
            after = said[len(voice) :]
            probability *= float(law_after(sampling, model.table[said[-2], said[-1]], voice.tolist(), after)[token])
            said.append(token)
            if token == model.end:
                break
        law[tuple(said[len(voice) :])] = probability  # all that begin with the same closed sequence agree
    return law


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("gamma", [1, 2, 3, 6])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.7, top_k=3, top_p=0.9),
        Sampling(repetition_penalty=1.8),
        Sampling(repetition_penalty=1.8, penalty_window=2),
        Sampling(top_p=0.6, ras=RAS(2, 0.5)),
    ],
    ids=["plain", "truncated", "penalised", "penalised_window", "repetition_aware"],
)
def test_sequences_have_the_targets_law(gamma: int, sampling: Sampling) -> None:
    target, draft = MarkovLM.random(4, seed=1), MarkovLM.random(4, seed=2, shift=5)
    law = sequence_law(target, sampling, 4, VOICE)
    assert sum(law.values()) == pytest.approx(1, abs=1e-5)
    said = speculative_decode(target, draft, ExactRule(), Batch(prompts(ROWS), sampling, 4, keys(ROWS)), gamma=gamma)
    found = Counter((*each.tokens.tolist(), target.end)[: 4 if not each.finished else None] for each in said)
    assert set(found) <= {sequence for sequence, probability in law.items() if probability > 0}
    # every count within 5 standard deviations of a binomial
    for sequence, probability in law.items():
        slack = 5 * (ROWS * probability * (1 - probability)) ** 0.5 + 1
        assert abs(found[sequence] - ROWS * probability) < slack, (sequence, found[sequence], ROWS * probability)


def test_plain_decoding_has_the_targets_law() -> None:
    target, sampling = MarkovLM.random(4, seed=1), Sampling(temperature=0.8)
    said = decode(target, Batch(prompts(ROWS), sampling, 3, keys(ROWS)))
    found = Counter((*each.tokens.tolist(), target.end)[: 3 if not each.finished else None] for each in said)
    for sequence, probability in sequence_law(target, sampling, 3, VOICE).items():
        assert abs(found[sequence] - ROWS * probability) < 5 * (ROWS * probability) ** 0.5 + 1


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("penalty", [1.0, 1.5])
def test_greedy_is_the_targets_own_token_for_token(gamma: int, penalty: float) -> None:
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    target = MarkovLM.random(12, seed=3)
    near = MarkovLM(target.table + 0.8 * MarkovLM.random(12, seed=4).table)  # agrees often, not always
    plain = decode(target, Batch(prompts(8), sampling, 40, keys(8)))
    said = speculative_decode(target, near, ExactRule(), Batch(prompts(8), sampling, 40, keys(8)), gamma=gamma)
    assert [each.tokens.tolist() for each in said] == [each.tokens.tolist() for each in plain]
    assert [each.finished for each in said] == [each.finished for each in plain]


@pytest.mark.parametrize("gamma", [1, 4])
def test_a_draft_equal_to_the_target_is_always_right(gamma: int) -> None:
    """With the same random numbers, positions and penalty on both sides, its tokens are those of plain decoding."""
    sampling = Sampling(temperature=0.9, top_p=0.9, repetition_penalty=1.4)
    target = MarkovLM.random(10, seed=5)
    rounds = []
    speculative_decode(
        target, target, ExactRule(), Batch(prompts(5), sampling, 30, keys(5)), gamma=gamma, observer=rounds.append
    )
    assert len(rounds) > 3
    for seen in rounds:
        torch.testing.assert_close(seen.draft_probs, seen.target_probs[:, :gamma])
        assert (seen.verdict.accepted == gamma).all()


@pytest.mark.usefixtures("types_unchecked")
def test_block_verification_has_the_targets_law_over_rounds() -> None:
    """It looks at drafts behind the one it rejects. Drawn again with the same numbers they give a chi-square of 179."""
    target, draft, sampling, rows = MarkovLM.random(3, seed=2), MarkovLM.random(3, seed=12), Sampling(), 80_000
    for model in (target, draft):
        model.table[..., -1] = -3.0  # seldom ends: many rounds
    law = sequence_law(target, sampling, 5, VOICE)
    said = speculative_decode(target, draft, Block(), Batch(prompts(rows), sampling, 5, keys(rows)), gamma=3)
    found = Counter((*each.tokens.tolist(), target.end)[: 5 if not each.finished else None] for each in said)
    expected = torch.tensor([rows * probability for probability in law.values()])
    counts = torch.tensor([float(found[sequence]) for sequence in law])
    often = expected > 5
    freedom = int(often.sum()) - 1
    chi_square = ((counts - expected) ** 2 / expected)[often].sum()
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5
