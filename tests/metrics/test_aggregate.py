from __future__ import annotations

import numpy as np
import pytest

from pcg.metrics.aggregate import estimate, figures, paired_difference, paired_ratio, ratio
from pcg.types import Figure


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
    errors, words = [1, 0, 3, 2], [9, 8, 7, 6]
    assert ratio(errors, words, seed=3) == ratio(errors, words, seed=3)
    assert ratio(errors, words, seed=3) != ratio(errors, words, seed=4)


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
    assert speedup.ci95 == pytest.approx((2.0, 2.0))


def test_what_is_undefined_is_none_and_nothing_warns():
    assert ratio([1, 2], [0, 0]) == estimate([[0.0, 0.0], [0.0, 0.0]], np.divide)
    assert ratio([1, 2], [0, 0]).value is None
    assert ratio([1], [4]).value == 0.25
    assert ratio([1], [4]).ci95 is None
    sometimes = ratio([1, 0, 0, 0], [1, 0, 0, 0])
    assert sometimes.value == 1
    assert sometimes.ci95 == (1, 1)


def test_figures_follow_the_metrics_own_ratios():
    rows = [{"word_errors": 1, "words": 4, "mos": 3.0}, {"word_errors": 0, "words": 6, "mos": 4.0}]
    wer, mos = Figure("WER", ratio=("word_errors", "words")), Figure("MOS", ratio=("mos", None))
    got = figures(rows, {"wer": wer, "mos": mos})
    assert got["wer"].value == pytest.approx(0.1)
    assert got["mos"].value == pytest.approx(3.5)
    with pytest.raises(KeyError, match="chars"):
        figures(rows, {"cer": Figure("CER", ratio=("word_errors", "chars"))})
    with pytest.raises(ValueError, match="'CER' is declared without the columns"):
        figures(rows, {"cer": Figure("CER")})


def test_columns_must_match():
    with pytest.raises(ValueError, match="different lengths"):
        ratio([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="no utterances"):
        ratio([])
