"""Numbers that are uniform, independent and the same in any batch; probabilities as transformers makes them; draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcg.history import History
from pcg.sampling import RAS, Purpose, Randomness, Sampling, as_keys, draw, draw_several, key_of
from tests.fakes import law_after

ALMOST_1 = 1 - 2.0**-52


def grid(rows: int = 200, positions: int = 100) -> tuple[Randomness, Tensor]:
    return Randomness(3, as_keys([f"u{i}" for i in range(rows)], torch.device("cpu"))), torch.arange(positions).expand(
        rows, -1
    )


def test_numbers_are_uniform() -> None:
    randomness, at = grid()
    numbers = torch.cat([randomness.uniform(at, purpose).flatten() for purpose in Purpose])
    assert numbers.dtype == torch.float64
    assert numbers.min() >= 0
    assert numbers.max() <= ALMOST_1
    histogram = torch.histc(numbers.float(), 64, 0, 1)
    expected = len(numbers) / 64
    assert ((histogram - expected) ** 2 / expected).sum() < 63 + 5 * (2 * 63) ** 0.5  # chi-square


@pytest.mark.parametrize("other", ["row", "position", "purpose", "draw", "seed"])
def test_neighbouring_numbers_are_uncorrelated(other: str) -> None:
    randomness, at = grid()
    numbers = randomness.draws(at, Purpose.TRIAL, 2)
    here, there = {
        "row": (numbers[1:, :, 0], numbers[:-1, :, 0]),
        "position": (numbers[:, 1:, 0], numbers[:, :-1, 0]),
        "purpose": (numbers[..., 0], randomness.uniform(at, Purpose.BONUS)),
        "draw": (numbers[..., 0], numbers[..., 1]),
        "seed": (numbers[..., 0], Randomness(4, randomness.keys).uniform(at, Purpose.TRIAL)),
    }[other]
    correlation = torch.corrcoef(torch.stack([here.flatten(), there.flatten()]))[0, 1]
    assert abs(correlation) < 5 / here.numel() ** 0.5


def test_a_row_has_its_numbers_in_any_batch() -> None:
    randomness, at = grid(8, 5)
    order = torch.tensor([6, 1, 3])
    single, several = randomness.uniform(at, Purpose.ACCEPT), randomness.draws(at, Purpose.ACCEPT, 3)
    assert torch.equal(randomness.keep(order).uniform(at[order], Purpose.ACCEPT), single[order])
    assert torch.equal(randomness.keep(order).draws(at[order], Purpose.ACCEPT, 3), several[order])


def test_the_first_of_several_draws_is_the_only_one() -> None:
    randomness, at = grid(4, 5)
    assert torch.equal(randomness.draws(at, Purpose.GROUP, 3)[..., 0], randomness.uniform(at, Purpose.GROUP))


def test_numbers_at_hand_are_the_same_numbers() -> None:
    randomness, at = grid(6, 9)
    ready = randomness.ahead(9)
    for purpose in Purpose:
        assert torch.equal(ready.uniform(at, purpose), randomness.uniform(at, purpose))
        assert torch.equal(ready.uniform(at[:, 4], purpose), randomness.uniform(at[:, 4], purpose))
        assert torch.equal(ready.draws(at, purpose, 2), randomness.draws(at, purpose, 2))
    both = torch.tensor([Purpose.ACCEPT, Purpose.BONUS])
    assert torch.equal(ready.uniform(at[..., None], both), randomness.uniform(at[..., None], both))
    for some in (randomness, ready):  # of all rows, and of one alone
        block = some.block(at[:, 2], 3)
        assert torch.equal(block, randomness.uniform(at[:, 2:5, None], torch.arange(len(Purpose))))
        one = some.keep(torch.tensor([4]))
        assert torch.equal(one.block(at[4:5, 2], 3), block[4:5])
        assert torch.equal(one.draws(at[4:5, 2], Purpose.TRIAL, 2), randomness.draws(at, Purpose.TRIAL, 2)[4:5, 2])
    order = torch.tensor([5, 0])
    assert torch.equal(
        ready.keep(order).uniform(at[order], Purpose.TOKEN), randomness.uniform(at, Purpose.TOKEN)[order]
    )
    kept = ready.keep(order)  # with the draws that are at hand already, and others
    assert kept.several
    for count in (2, 3, 200):
        assert torch.equal(
            kept.draws(at[order], Purpose.TOKEN, count), randomness.draws(at, Purpose.TOKEN, count)[order]
        )


def test_numbers_do_not_change_between_versions() -> None:
    """Results are compared across versions on the same seed; a change here is a change of every result."""
    assert key_of("utterance-1") == 6424174126063646220
    numbers = Randomness(7, torch.tensor([key_of("utterance-1")])).uniform(torch.tensor([[0, 1]]), Purpose.TOKEN)
    assert numbers.tolist() == [[0.4769749194456232, 0.32771890699322004]]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=12), st.floats(0, ALMOST_1))
def test_a_draw_is_the_inverse_of_the_cumulative_weights(weights: list[float], uniform: float) -> None:
    row = torch.tensor([weights])
    if not row.any():
        return
    index = int(draw(row, torch.tensor([uniform], dtype=torch.float64)))
    total = row.double().sum()
    assert row[0, index] > 0
    assert row.double()[0, :index].sum() <= uniform * total + 1e-12
    assert row.double()[0, : index + 1].sum() >= uniform * total - 1e-12


@pytest.mark.parametrize("weights", [[0.0, 1.0, 0.0], [0.1, 0.2, 0.0, 0.7, 0.0], [1e-38, 0.0]])
def test_the_largest_number_draws_the_last_positive_weight(weights: list[float]) -> None:
    row = torch.tensor([weights])
    last = int(row.nonzero()[-1, 1])
    assert int(draw(row, torch.tensor([ALMOST_1], dtype=torch.float64))) == last
    first = int(row.nonzero()[0, 1])
    assert int(draw(row, torch.tensor([0.0], dtype=torch.float64))) == first


def test_draws_have_the_weights_frequencies() -> None:
    weights = torch.tensor([0.5, 0.0, 2.0, 1.5])
    randomness = Randomness(0, torch.arange(3))
    uniform = randomness.draws(torch.zeros(3, dtype=torch.int64), Purpose.TOKEN, 40_000)
    drawn = draw_several(weights.expand(3, -1), uniform)
    for row in drawn:
        found = torch.bincount(row, minlength=4) / 40_000
        assert (found - weights / 4).abs().max() < 5 * (0.25 / 40_000) ** 0.5


def warped(logits: Tensor, seen: Tensor, sampling: Sampling) -> Tensor:
    """transformers' own processors, in its order."""
    from transformers import LogitsProcessorList
    from transformers.generation import (
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    chain = LogitsProcessorList()
    chain.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    chain.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k is not None:
        chain.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(TopPLogitsWarper(sampling.top_p))
    rows = []
    for row, marked in zip(logits, seen, strict=True):
        ids = marked.nonzero().T
        rows.append(chain(ids, row[None].clone()).softmax(-1)[0])
    return torch.stack(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.2, 2),
    st.none() | st.integers(1, 60),
    st.floats(0.05, 1),
    st.floats(0.5, 2),
    st.integers(0, 2**31),
)
def test_probabilities_are_those_of_transformers(
    temperature: float, top_k: int | None, top_p: float, penalty: float, seed: int
) -> None:
    sampling = Sampling(temperature, top_k, top_p, penalty)
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(4, 50, generator=generator)
    seen = torch.rand(4, 50, generator=generator) < 0.2
    found = sampling.probabilities(logits, History(seen, None, None))
    torch.testing.assert_close(found, warped(logits, seen, sampling), rtol=1e-4, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.floats(0.01, 1), st.none() | st.integers(1, 9), st.floats(0.1, 1), st.integers(0, 2**31))
def test_repetition_aware_sampling_is_two_draws(
    window: int, tau: float, top_k: int | None, top_p: float, seed: int
) -> None:
    """By enumeration of the first draw, of histories that end at any length and repeat themselves."""
    sampling = Sampling(0.8, top_k, top_p, ras=RAS(window, tau))
    generator = torch.Generator().manual_seed(seed)
    said = torch.randint(0, 6, (int(torch.randint(0, 20, (), generator=generator)),), generator=generator).tolist()
    logits, history = 2 * torch.randn(9, generator=generator), sampling.history([None], 9, torch.device("cpu"))
    for token in said:
        history = history.after(torch.tensor([token]))
    found = sampling.probabilities(logits[None], history)[0]
    torch.testing.assert_close(found, law_after(sampling, logits, [], said), rtol=1e-4, atol=1e-6)
    assert found.sum().item() == pytest.approx(1, abs=1e-5)


def test_repetition_aware_sampling_has_the_law_of_the_published_procedure() -> None:
    """Draw from the nucleus; a token that was said ``window * tau`` times in the window is drawn again, from all."""
    generator = torch.Generator().manual_seed(3)
    sampling, said = Sampling(0.9, top_k=5, top_p=0.8, ras=RAS(10, 0.1)), [3, 1, 1, 4, 5, 0, 2, 6, 5, 3, 5, 7]
    logits, draws = torch.tensor([0.1, 0.9, -1.0, 1.2, 0.3, 1.5, -0.5, 0.0, 1.4]), 40_000
    nucleus = Sampling(0.9, top_k=5, top_p=0.8).probabilities(logits)
    first = torch.multinomial(nucleus, draws, replacement=True, generator=generator)
    again = torch.multinomial((logits / 0.9).softmax(0), draws, replacement=True, generator=generator)
    repeated = torch.tensor([said[-10:].count(token) >= 10 * 0.1 for token in range(9)])
    found = torch.bincount(torch.where(repeated[first], again, first), minlength=9) / draws
    assert repeated[first].any()
    assert not repeated[first].all()
    expected = law_after(sampling, logits, [], said)
    assert ((found - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt() + 1e-4).all()


def test_a_penalty_over_a_window_forgets() -> None:
    """The voice prompt's last tokens are in it as long as there is room."""
    sampling, logits = Sampling(repetition_penalty=2.0, penalty_window=3), torch.ones(1, 6)
    history = sampling.history([torch.tensor([0, 1, 2, 3])], 6, torch.device("cpu"))
    penalised = []
    for token in (4, 5, 5, 0):
        penalised.append((sampling.probabilities(logits, history)[0] < 1 / 6).nonzero().flatten().tolist())
        history = history.after(torch.tensor([token]))
    assert penalised == [[1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5]]


def test_nothing_is_remembered_that_is_not_asked_for() -> None:
    assert Sampling().history([None], 9, torch.device("cpu")) is None
    whole = Sampling(repetition_penalty=1.1).history([None], 9, torch.device("cpu"))
    assert (whole.seen.shape, whole.window, whole.generated) == ((1, 9), None, None)


def test_greedy_puts_all_mass_on_the_most_likely_token_after_the_penalty() -> None:
    logits, seen = torch.tensor([[2.0, 3.0, -1.0]]), History(torch.tensor([[False, True, False]]), None, None)
    assert Sampling(temperature=0.0).probabilities(logits).tolist() == [[0.0, 1.0, 0.0]]
    assert Sampling(temperature=0.0, repetition_penalty=2.0).probabilities(logits, seen).tolist() == [[1.0, 0.0, 0.0]]


def test_half_precision_logits_become_float32_probabilities() -> None:
    logits = torch.randn(2, 3, 100).bfloat16()
    probs = Sampling(top_p=0.9).probabilities(logits)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(-1), torch.ones(2, 3))


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"temperature=-1\.0.*top_k=0.*top_p=0\.0.*repetition_penalty=0\.0"):
        Sampling(-1.0, 0, 0.0, 0.0)
