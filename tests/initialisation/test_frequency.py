"""The output bias with the new text's frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.initialisation import counts, frequency_bias, nothing
from trelm.initialisation.frequency import log_frequencies


def test_by_hand() -> None:
    # Row 0 is half of source rows 0 and 1, row 1 is source row 2, row 2 is nothing.
    mixture = counts(np.array([[0, 0], [0, 1], [1, 2]]), np.ones(3), (3, 3))
    source_counts, new_counts = np.array([7, 1, 0]), np.array([0, 4, 2])
    p_source, p_new = np.array([8, 2, 1]) / 11, np.array([1, 5, 3]) / 9
    bias = np.array([0.5, -0.25, 2.0], dtype=np.float32)
    residual = bias - np.log(p_source)
    mean = (residual[0] + residual[1]) / 2  # the text has no row 2 of the source
    carried = [mean, residual[2], mean]
    found = frequency_bias(mixture, bias, source_counts, new_counts)
    np.testing.assert_allclose(found, carried + np.log(p_new), atol=1e-6)
    assert found.dtype == np.float32


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=20))
def test_a_bias_of_frequencies_gives_the_new_frequencies(numbers: list[int]) -> None:
    size = len(numbers)
    source_counts = np.array(numbers)
    mixture = counts(np.stack([np.arange(size)] * 2, axis=1), np.ones(size), (size, size))
    new_counts = source_counts[::-1].copy()
    found = frequency_bias(mixture, log_frequencies(source_counts).astype(np.float32) + 3, source_counts, new_counts)
    np.testing.assert_allclose(found, log_frequencies(new_counts) + 3, atol=1e-5)


def test_frequencies_sum_to_one() -> None:
    np.testing.assert_allclose(np.exp(log_frequencies(np.array([0, 3, 900]))).sum(), 1)


def test_without_source_text_nothing_is_carried_but_the_frequencies() -> None:
    found = frequency_bias(nothing((2, 3)), np.ones(3, np.float32), np.zeros(3, np.int64), np.array([1, 3]))
    np.testing.assert_allclose(found, np.log([2 / 6, 4 / 6]), rtol=1e-6)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"expected counts \(2,\), source_counts \(3,\) and a bias of 3, found \(3,\)"):
        frequency_bias(nothing((2, 3)), np.ones(3, np.float32), np.zeros(3, np.int64), np.ones(3))
