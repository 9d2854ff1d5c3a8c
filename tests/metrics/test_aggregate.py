from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaincinv

from pcg.metrics.aggregate import Estimate, estimate, paired_difference, paired_ratio, ratio


def test_ratio_of_sums_not_mean_of_ratios():
    assert ratio([1, 0], [2, 8]).value == pytest.approx(0.1)
    assert ratio([1, 2, 6]).value == pytest.approx(3.0)


def test_interval_of_a_mean_is_the_normal_one():
    column = np.random.default_rng(0).normal(5, 2, 400)
    low, high = ratio(column).ci95
    half = 1.96 * column.std() / 20
    assert low == pytest.approx(column.mean() - half, abs=0.02)
    assert high == pytest.approx(column.mean() + half, abs=0.02)


def test_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
    rng, truth, covered = np.random.default_rng(1), 0.3, 0
    for _ in range(300):
        words = rng.integers(5, 20, 60)
        errors = rng.binomial(words, truth)
        low, high = estimate([errors, words], np.divide, resamples=400).ci95
        covered += low <= truth <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_seed_fixes_the_interval_and_blocks_do_not_show():
    columns = [[1, 0, 3, 2], [9, 8, 7, 6]]
    assert estimate(columns, np.divide, seed=3) == estimate(columns, np.divide, seed=3)
    assert estimate(columns, np.divide, seed=3) != estimate(columns, np.divide, seed=4)


def test_pairing_removes_what_the_utterances_share():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 10, 50)
    a, b = 1 + hard + rng.normal(0, 0.1, 50), hard
    difference = paired_difference((a, None), (b, None))
    assert difference.value == pytest.approx((a - b).mean())
    assert difference.ci95[1] - difference.ci95[0] < 0.1
    assert ratio(a).ci95[1] - ratio(a).ci95[0] > 3


def test_speed_up_is_a_ratio_of_ratios():
    tokens, slow, fast = np.array([10, 20, 30]), np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 1.5])
    speedup = paired_ratio((tokens, fast), (tokens, slow))
    assert speedup.value == pytest.approx(2.0)
    assert speedup.ci95 is None  # the same in every batch: nothing is known of its spread


def test_what_is_undefined_is_none_and_nothing_warns():
    assert ratio([1, 2], [0, 0]) == estimate([[0.0, 0.0], [0.0, 0.0]], np.divide)
    assert ratio([1, 2], [0, 0]).value is None
    assert ratio([1], [4]).value == 0.25
    assert ratio([1], [4]).ci95 is None
    sometimes = ratio([1, 0, 0, 0], [1, 0, 0, 0], share=True)
    assert sometimes.value == 1
    assert sometimes.ci95 == (pytest.approx(0.025**0.25), 1)


def test_where_all_have_the_same_share_the_interval_is_the_binomial_one():
    """Clopper and Pearson: beta quantiles of the number of utterances."""
    for trials in (2, 6, 40):
        low, high = ratio([7] * trials, [7] * trials, share=True).ci95
        assert (low, high) == (pytest.approx(betaincinv(trials, 1, 0.025)), 1.0)
        assert ratio([0] * trials, [7] * trials, share=True).ci95 == (0.0, pytest.approx(betaincinv(1, trials, 0.975)))
    assert ratio([3, 3], [6, 6], share=True) == Estimate(0.5, None)
    assert ratio([3, 3], [3, 3]) == Estimate(1.0, None)  # tokens a pass are no share
    assert ratio([0.5, 0.5]) == Estimate(0.5, None)  # a mean: of what, nobody knows
    assert ratio([7], [7]).ci95 is None
    assert paired_difference(([1, 2], [4, 8]), ([1, 2], [4, 8])) == Estimate(0.0, None)


def test_few_utterances_have_the_interval_that_they_deserve():
    rng, covered = np.random.default_rng(4), 0
    for _ in range(500):
        low, high = estimate([rng.normal(5, 1, 4), np.ones(4)], np.divide, resamples=300).ci95
        covered += low <= 5 <= high
    assert 0.91 <= covered / 500 <= 0.98
    assert ratio([1, 4], [4, 4], share=True).ci95 == (0.0, 1.0)  # a share stays one
    assert ratio([1, 4], [4, 4]).ci95[1] > 1


def crossed(rng: np.random.Generator, utterances: int, seeds: int, share: float) -> list[np.ndarray]:
    """Errors and words (utterances, seeds); the seeds' variance of the mean is ``share`` times the utterances'."""
    of_mean = (0.1**2 + 0.1**2 / seeds) / utterances
    rate = 0.3 + 0.1 * (rng.normal(size=(utterances, 1)) + rng.normal(size=(utterances, seeds)))
    rate = rate + np.sqrt(share * seeds * of_mean) * rng.normal(size=(1, seeds))
    words = np.broadcast_to(rng.integers(8, 25, (utterances, 1)), rate.shape)
    return [rate * words, words]


@pytest.mark.parametrize(("seeds", "share"), [(2, 1.0), (3, 1.0), (5, 1.0), (3, 0.0)])
def test_of_several_seeds_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, share: float):
    rng, covered, of_one = np.random.default_rng(5), 0, 0
    for _ in range(400):
        columns = crossed(rng, 60, seeds, share)
        low, high = estimate(columns, np.divide, resamples=200).ci95
        covered += low <= 0.3 <= high
        low, high = estimate([column.sum(1) for column in columns], np.divide, resamples=200).ci95
        of_one += low <= 0.3 <= high
    assert 0.92 <= covered / 400 <= 0.985
    assert (of_one / 400 < 0.89) == (share > 0)  # over utterances alone it is too narrow


def test_what_a_difference_takes_to_be_seen():
    """By hand: influence of a mean is the value itself, less the mean."""
    values = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 7.0]])
    found = ratio(values).spread
    assert (found.of_utterances, found.of_seeds, found.of_rest) == pytest.approx((10.5, 6.0, 0.5))
    assert found.standard_error == pytest.approx(np.sqrt(16.5 / 6))
    assert found.freedom == pytest.approx(16.5**2 / (10.5**2 / 2 + 6.0**2 / 1))
    one = ratio(values[:, 0]).spread
    assert one.utterances_for(one.detectable, 1) == pytest.approx(3, abs=1)
    assert one.utterances_for(one.detectable / 2, 1) == pytest.approx(12, abs=1)
    assert found.utterances_for(0.01, 1) is None  # what seeds differ by stays, whatever the number of utterances


def test_a_difference_that_could_have_been_seen_is_seen_four_times_in_five():
    rng, seen = np.random.default_rng(6), 0
    true = paired_difference((rng.normal(0, 1, 4000), None), (rng.normal(0, 1, 4000), None)).spread
    least = (true.of_utterances / 50) ** 0.5 * 2.8
    for _ in range(300):
        a, b = rng.normal(least, 1, 50), rng.normal(0, 1, 50)
        low, _ = estimate([a, b, np.ones(50)], lambda x, y, count: (x - y) / count, resamples=200).ci95
        seen += low > 0
    assert 0.72 <= seen / 300 <= 0.87


def test_columns_must_match():
    with pytest.raises(ValueError, match="different lengths"):
        ratio([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="there are no utterances"):
        ratio([])
