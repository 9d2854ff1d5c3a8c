"""The draft without a model, by hand and through the loop."""

from __future__ import annotations

import pytest
import torch

from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.models.ngram import NGram
from pcg.sampling import Randomness, Sampling, as_keys
from pcg.types import Utterance
from tests.fakes import ExactRule, MarkovLM

SAID = Utterance("a", "x")


def probs(history: list[int], order: int, vocab: int = 4) -> list[float]:
    model = NGram(vocab, order=order)
    ids = model.prompt(SAID, torch.tensor(history, dtype=torch.int64))
    cache = model.prefill([ids], capacity=40)
    return model.step(ids[None, -1:], cache).exp()[0, 0].tolist()


def test_by_hand() -> None:
    # counts of 0 1 0 1 0: 3 2 0 0, two kinds; uniform 1/4 below it
    unigram = [(3 + 2 / 4) / 7, (2 + 2 / 4) / 7, (2 / 4) / 7, (2 / 4) / 7]
    assert probs([0, 1, 0, 1, 0], 1) == pytest.approx(unigram)
    # after 0 came 1, twice
    bigram = [u / 3 for u in unigram]
    bigram[1] += 2 / 3
    assert probs([0, 1, 0, 1, 0], 2) == pytest.approx(bigram)
    # after 1 0 came 1, once
    trigram = [b / 2 for b in bigram]
    trigram[1] += 1 / 2
    assert probs([0, 1, 0, 1, 0], 3) == pytest.approx(trigram)
    assert probs([], 3) == pytest.approx([1 / 4] * 4)  # fillers say nothing
    assert sum(probs([2, 2, 1], 3)) == pytest.approx(1)


def test_rolling_back_and_keeping_rows_forget() -> None:
    model = NGram(6, order=3)
    ids = [model.prompt(SAID, torch.tensor(tokens)) for tokens in ([0, 1, 2, 0], [3, 3], [1])]
    cache = model.prefill(ids, capacity=40)
    fresh = model.step(torch.stack([row[-1:] for row in ids]), cache)
    model.step(torch.tensor([[5, 4], [5, 4], [5, 4]]), cache)
    cache.lengths = cache.lengths - torch.tensor([3, 3, 3])
    again = model.step(torch.stack([row[-1:] for row in ids]), cache)
    assert torch.equal(fresh, again)
    cache.keep(torch.tensor([2, 0]))
    cache.lengths = cache.lengths - 1
    assert torch.equal(model.step(torch.stack([ids[2][-1:], ids[0][-1:]]), cache), fresh[[2, 0]])


def test_greedy_decoding_with_it_is_the_targets_own() -> None:
    target = MarkovLM.random(8, seed=3)
    prompts = [Prompt(Utterance(f"u{i}", "x" * i), torch.tensor([1, 2])) for i in range(3)]
    keys = as_keys([p.utterance.id for p in prompts], target.device)
    settings = {"sampling": Sampling(temperature=0.0), "max_tokens": 20, "randomness": Randomness(0, keys)}
    alone = decode(target, Batch(prompts, **settings))
    both = speculative_decode(target, NGram(8), ExactRule(), Batch(prompts, **settings), gamma=3)
    assert [g.tokens.tolist() for g in both] == [g.tokens.tolist() for g in alone]


def test_it_has_no_table_and_an_order() -> None:
    with pytest.raises(ValueError, match="has no input table"):
        NGram(4).embeddings("input")
    with pytest.raises(ValueError, match="order=0"):
        NGram(4, order=0)
