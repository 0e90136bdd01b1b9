from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.initialisation import counts
from trelm.initialisation.mixture import LINKED, RANDOM

pairs_with_counts = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(1, 9)), max_size=20)


def test_probabilities_worked_by_hand():
    """Row 1 is linked three times to source row 0 and once to 2; row 2 twice to 1."""
    pairs, times = np.array([[1, 0], [1, 2], [2, 1]]), np.array([3, 1, 2], dtype=np.float32)
    mixture = counts(pairs, times, (4, 3), least=0)
    assert mixture.weights.toarray().tolist() == [[0, 0, 0], [0.75, 0, 0.25], [0, 1, 0], [0, 0, 0]]
    assert mixture.provenance.tolist() == [RANDOM, LINKED, LINKED, RANDOM]
    assert counts(pairs, times, (4, 3), least=3).covered.tolist() == [False, True, False, False]
    assert counts(pairs, times, (4, 3), least=4).covered.tolist() == [False, True, False, False]
    assert not counts(pairs, times, (4, 3), least=5).covered.any()


@given(pairs_with_counts, st.integers(0, 12))
def test_rows_equal_a_plain_count(triples, least):
    pairs = np.array([triple[:2] for triple in triples], dtype=np.int64).reshape(-1, 2)
    mixture = counts(pairs, np.array([triple[2] for triple in triples], dtype=np.float32), (6, 4), least=least)
    joint: Counter[tuple[int, int]] = Counter()
    totals: Counter[int] = Counter()
    for row, source, times in triples:
        joint[row, source] += times
        totals[row] += times
    for row in range(6):
        enough = totals[row] and totals[row] >= least
        expected = [joint[row, source] / totals[row] if enough else 0 for source in range(4)]
        np.testing.assert_allclose(mixture.weights.toarray()[row], expected, rtol=1e-12)


def test_links_outside_the_vocabularies_are_refused():
    with pytest.raises(ValueError, match="expected pairs of a row below 2 and a source row below 3"):
        counts(np.array([[0, 3]]), np.ones(1, dtype=np.float32), (2, 3))
