"""Whitening gives the identity; the map between whitened spaces has the closed forms it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trelm.alignment.criterion import random_orthogonal
from trelm.alignment.procrustes import procrustes
from trelm.alignment.ridge import ridge
from trelm.alignment.whitening import whitened_map, whitening


def table(n: int, d: int, seed: int) -> Tensor:
    """Centred rows of unequal, correlated dimensions."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g)
    return rows - rows.mean(dim=0)


def moment(rows: Tensor, weights: Tensor) -> Tensor:
    return (rows * weights[:, None]).T @ rows / weights.sum()


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 6), seed=st.integers(0, 999))
def test_the_moment_becomes_the_identity(d: int, seed: int) -> None:
    rows = table(50, d, seed).double()
    weights = torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    A, back = whitening(rows, weights)
    torch.testing.assert_close(moment(rows @ A, weights), torch.eye(d, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(A @ back, torch.eye(d, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(A, A.T)


def test_a_direction_without_variance_is_left_out() -> None:
    flat = torch.cat([table(30, 3, 1), torch.zeros(30, 1)], dim=1)
    A, back = whitening(flat)
    turned = moment(flat.double() @ A, torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(turned, torch.diag(torch.tensor([1.0, 1, 1, 0], dtype=torch.float64)), atol=1e-6, rtol=0)
    assert back[3].abs().max() < 1e-9


def test_a_penalty_blows_small_directions_up_less() -> None:
    rows = table(30, 3, 1) * torch.tensor([10.0, 1, 0.01])
    greatest = [float(torch.linalg.matrix_norm(whitening(rows, penalty=p)[0], 2)) for p in (0, 0.01, 1)]
    assert greatest == sorted(greatest, reverse=True)
    with pytest.raises(ValueError, match="expected a penalty of 0 or more, found -1"):
        whitening(rows, penalty=-1)


def test_without_reweighting_it_is_procrustes_between_whitened_spaces() -> None:
    X, Y = table(60, 5, 1), table(60, 5, 2)
    (A_x, _), (A_y, back) = whitening(X), whitening(Y)
    x, y = X.double() @ A_x, Y.double() @ A_y
    expected = (A_x @ procrustes(x, y).T @ back).T.float()
    torch.testing.assert_close(whitened_map(X, Y, reweighting=0, penalty=0), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [3, 5, 7])
def test_with_full_reweighting_it_is_least_squares(width: int) -> None:
    X, Y = table(60, 5, 1), table(60, width, 2)
    found = whitened_map(X, Y, reweighting=1, penalty=0)
    assert found.shape == (width, 5)
    torch.testing.assert_close(found, ridge(X, Y, penalty=1e-12), atol=1e-4, rtol=1e-4)


def test_undoes_a_stretch_that_procrustes_cannot() -> None:
    X = table(80, 6, 1)
    W = random_orthogonal(6, torch.Generator().manual_seed(2)) @ torch.diag(torch.linspace(0.2, 3, 6))
    Y = X @ W.T
    torch.testing.assert_close(X @ whitened_map(X, Y, penalty=0).T, Y, atol=1e-3, rtol=0)
    assert (X @ procrustes(X, Y).T - Y).norm() > 0.2 * Y.norm()


def test_weights_equal_repetition() -> None:
    X, Y = table(30, 4, 1), table(30, 4, 2)
    times = torch.randint(0, 4, (30,), generator=torch.Generator().manual_seed(3))
    repeated = whitened_map(X.repeat_interleave(times, dim=0), Y.repeat_interleave(times, dim=0))
    torch.testing.assert_close(whitened_map(X, Y, times.float()), repeated, atol=1e-4, rtol=1e-4)
