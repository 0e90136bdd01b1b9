from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.initialisation import rescale

WORDS = np.random.default_rng(1).normal(size=(60, 5)).astype(np.float32) * 0.1
FREQUENCY = np.random.default_rng(2).permutation(60)
REFERENCE = np.linspace(3.0, 1.0, 60)  # frequent rows are longer


def lengths(rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rows.astype(np.float64), axis=1)


def test_lengths_worked_by_hand():
    """Two parts: the frequent rows 1 and 3 take the source's two frequent lengths in order, the others the rest."""
    words = np.array([[1, 0], [0, 2], [2, 0], [0, 1]], dtype=np.float32)
    made = rescale(words, np.array([5, 90, 4, 80]), np.array([30.0, 40.0, 7.0, 6.0]), bins=2)
    np.testing.assert_allclose(made, [[6, 0], [0, 40], [7, 0], [0, 30]], rtol=1e-6)
    half = rescale(words, np.array([5, 90, 4, 80]), np.array([30.0, 40.0, 7.0, 6.0]), bins=2, strength=0.5)
    np.testing.assert_allclose(lengths(half), np.sqrt([6, 2 * 40, 2 * 7, 30]), rtol=1e-6)


def test_a_row_alone_takes_the_median():
    made = rescale(np.array([[2.0, 0.0]], np.float32), np.array([1]), np.array([1.0, 5.0, 9.0]), bins=1)
    np.testing.assert_allclose(made, [[5, 0]])


@given(st.floats(0, 1), st.integers(1, 80), st.integers(1, 70))
def test_directions_stay_and_longer_rows_of_a_part_stay_longer(strength, bins, reference):
    made = rescale(WORDS, FREQUENCY, REFERENCE[:reference], strength=strength, bins=bins)
    cosines = (made * WORDS).sum(axis=1) / (lengths(made) * lengths(WORDS))
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    one = rescale(WORDS, FREQUENCY, REFERENCE[:reference], strength=strength, bins=1)
    assert (np.diff(lengths(one)[np.argsort(lengths(WORDS))]) > -1e-6).all()


@pytest.mark.parametrize("bins", [1, 4, 20])
def test_full_strength_gives_each_part_the_sources_very_lengths(bins):
    made = lengths(rescale(WORDS, FREQUENCY, REFERENCE, bins=bins))
    by_frequency = made[np.argsort(-FREQUENCY)]
    for mine, theirs in zip(np.split(by_frequency, bins), np.split(REFERENCE, bins)):
        np.testing.assert_allclose(np.sort(mine), np.sort(theirs), rtol=1e-6)


def test_no_strength_changes_no_bit_and_neither_array_is_the_other():
    made = rescale(WORDS, FREQUENCY, REFERENCE, strength=0)
    np.testing.assert_array_equal(made, WORDS)
    assert made is not WORDS
    assert made.dtype == np.float32


def test_only_the_rows_asked_for_change_and_the_others_keep_their_place_in_the_order():
    rows = np.zeros(60, np.bool_)
    rows[:30] = True
    before = WORDS.copy()
    made = rescale(WORDS, FREQUENCY, REFERENCE, rows=rows, bins=60)
    np.testing.assert_array_equal(made[30:], WORDS[30:])
    np.testing.assert_allclose(lengths(made)[:30], REFERENCE[np.argsort(np.argsort(-FREQUENCY))][:30], rtol=1e-6)
    np.testing.assert_array_equal(WORDS, before)


def test_zero_rows_stay_zero_and_do_not_count():
    words = np.array([[0, 0], [0, 2]], dtype=np.float32)
    made = rescale(words, np.array([1, 1]), np.array([3.0, 3.0]), bins=1)
    np.testing.assert_allclose(made, [[0, 0], [0, 3]])


def test_equal_lengths_stay_equal():
    made = rescale(np.eye(4, dtype=np.float32), np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]), bins=1)
    np.testing.assert_allclose(lengths(made), 2.5)


def test_an_empty_vocabulary_stays_empty():
    assert rescale(WORDS[:0], FREQUENCY[:0], REFERENCE).shape == (0, 5)


def test_what_does_not_fit_is_refused():
    message = r"^rescale: expected \[V, d\], \[V\] and \[V\], found words \(60, 5\), frequency \(59,\), rows \(60,\)$"
    with pytest.raises(ValueError, match=message):
        rescale(WORDS, FREQUENCY[:59], REFERENCE)
    for norms in (REFERENCE[:0], np.array([1.0, 0.0]), np.array([np.nan])):
        with pytest.raises(
            ValueError, match=r"^rescale: expected positive norms of source rows, found none, or one that"
        ):
            rescale(WORDS, FREQUENCY, norms)
    for strength, bins in ((1.5, 4), (-0.1, 4), (np.nan, 4), (1.0, 0)):
        expected = f"^rescale: expected a strength from 0 to 1 and 1 or more bins, found {strength} and {bins}$"
        with pytest.raises(ValueError, match=expected):
            rescale(WORDS, FREQUENCY, REFERENCE, strength=strength, bins=bins)
