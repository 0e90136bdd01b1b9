"""Sparsemax against its definition: the Euclidean projection onto the simplex."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.optimize import minimize

from trelm.initialisation.sparsemax import sparsemax

Array = NDArray[np.float64]
SCORES = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-20, 20, width=32))


def projected_by_solver(z: Array) -> Array:
    """The nearest point of the simplex, by a general solver that knows nothing of sparsemax."""
    start = np.full(len(z), 1 / len(z))
    total = {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones_like(p)}
    found = minimize(
        lambda p: ((p - z) ** 2).sum(),
        start,
        jac=lambda p: 2 * (p - z),
        bounds=[(0, 1)] * len(z),
        constraints=[total],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return np.asarray(found.x)


@pytest.mark.parametrize("seed", range(8))
def test_equals_a_solver(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(scale=rng.choice([0.1, 1.0, 3.0]), size=rng.integers(2, 9))
    np.testing.assert_allclose(sparsemax(z), projected_by_solver(z), atol=1e-5)


@given(SCORES)
def test_no_point_of_the_simplex_is_nearer(z: Array) -> None:
    # p is the projection on a convex set if and only if (z - p) (v - p) <= 0 for all its corners v.
    p = sparsemax(z)
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    towards_corners = (z - p) - ((z - p) * p).sum(axis=1, keepdims=True)
    assert (towards_corners <= 1e-9).all()


@given(SCORES, st.floats(-1e6, 1e6))
def test_is_the_same_for_shifted_scores(z: Array, shift: float) -> None:
    np.testing.assert_allclose(sparsemax(z + shift), sparsemax(z), atol=1e-8)


@given(SCORES)
def test_rows_do_not_touch_each_other(z: Array) -> None:
    np.testing.assert_array_equal(sparsemax(z), np.stack([sparsemax(row) for row in z]))


@given(SCORES)
def test_follows_its_scores_when_they_are_reordered(z: Array) -> None:
    order = np.random.default_rng(z.size).permutation(z.shape[1])
    np.testing.assert_allclose(sparsemax(z[:, order]), sparsemax(z)[:, order], atol=1e-12)


def test_hand_worked_examples() -> None:
    np.testing.assert_array_equal(sparsemax(np.array([3.0, 1.0, 0.0])), [1, 0, 0])  # one that is ahead by 1 takes all
    np.testing.assert_allclose(sparsemax(np.array([0.5, 0.5, -4.0])), [0.5, 0.5, 0])
    np.testing.assert_allclose(sparsemax(np.array([0.6, 0.2, -0.9])), [0.7, 0.3, 0])  # tau = (0.8 - 1) / 2
    np.testing.assert_allclose(sparsemax(np.array([[7.0]])), [[1]])


def test_keeps_a_point_of_the_simplex_and_the_input() -> None:
    z = np.random.default_rng(1).dirichlet(np.ones(6))
    before = z.copy()
    np.testing.assert_allclose(sparsemax(z), before, atol=1e-15)
    np.testing.assert_array_equal(z, before)


def test_reads_float32() -> None:
    z = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    assert sparsemax(z).dtype == np.float64
    np.testing.assert_array_equal(sparsemax(z), sparsemax(z.astype(np.float64)))


@pytest.mark.parametrize("bad", [np.zeros(0), np.zeros((3, 0)), np.zeros((2, 2, 2)), np.zeros(())])
def test_refuses_other_shapes(bad: Array) -> None:
    with pytest.raises(ValueError, match=r"expected finite scores \[n\] or \[m, n\].*found shape"):
        sparsemax(bad)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_what_is_not_finite(bad: float) -> None:
    with pytest.raises(ValueError, match=r"expected finite scores .* found NaN or infinity"):
        sparsemax(np.array([0.0, bad]))
