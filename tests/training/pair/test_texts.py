import itertools

import pytest

from pcg.training.pair.texts import clauses, sentences, spell


def test_sentences_are_distinct_short_and_repeatable():
    first = list(itertools.islice(sentences(0), 3000))
    assert first == list(itertools.islice(sentences(0), 3000))
    assert first != list(itertools.islice(sentences(1), 3000))
    assert len(set(first)) == len(first)
    assert all(4 <= len(s.split()) <= 25 and s[0].isupper() and s[-1] in ".?!" for s in first)
    assert not any(c in s for s in first for c in "{}0123456789")


def test_a_third_are_clauses():
    known = set(clauses())
    share = sum(s in known for s in itertools.islice(sentences(0), 3000)) / 3000
    assert 0.29 < share < 0.38


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (14, "fourteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (217, "two hundred and seventeen"),
        (21_345, "twenty-one thousand three hundred and forty-five"),
    ],
)
def test_numbers_are_spelled(number, words):
    assert spell(number) == words
