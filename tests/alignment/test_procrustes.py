"""Procrustes against its closed form and the maps it must find again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trelm.alignment.criterion import random_orthogonal
from trelm.alignment.procrustes import nearest_orthogonal, orthogonalise, procrustes


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hidden_map(d: int, *, reflection: bool) -> Tensor:
    W = random_orthogonal(d, generator(3))
    if (torch.linalg.det(W) < 0) != reflection:
        W[0] = -W[0]
    return W


@pytest.mark.parametrize("reflection", [False, True])
def test_finds_a_hidden_orthogonal_map(reflection: bool) -> None:
    W = hidden_map(8, reflection=reflection)
    X = torch.randn(50, 8, generator=generator(1))
    found = procrustes(X, X @ W.T)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, W, atol=1e-6, rtol=0)
    assert (torch.linalg.det(found) < 0) == reflection


def test_equals_the_closed_form_of_two_dimensions() -> None:
    # The best rotation of the plane turns by atan2(sum of cross products, sum of dot products).
    g = generator(5)
    X = torch.randn(30, 2, generator=g)
    turn = torch.tensor(0.7)
    R = torch.stack([torch.stack([turn.cos(), -turn.sin()]), torch.stack([turn.sin(), turn.cos()])])
    Y = X @ R.T + 0.2 * torch.randn(30, 2, generator=g)
    angle = torch.atan2((X[:, 0] * Y[:, 1] - X[:, 1] * Y[:, 0]).sum(), (X * Y).sum())
    expected = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    torch.testing.assert_close(procrustes(X, Y), expected, atol=1e-5, rtol=0)


def test_no_other_orthogonal_map_has_a_smaller_error() -> None:
    g = generator(7)
    X, Y = torch.randn(40, 5, generator=g), torch.randn(40, 5, generator=g)
    weights = torch.rand(40, generator=g)

    def error(W: Tensor) -> float:
        return float((weights * (X @ W.T - Y).square().sum(dim=1)).sum())

    best = error(procrustes(X, Y, weights))
    assert all(best < error(random_orthogonal(5, g)) for _ in range(200))


def test_weights_equal_repetition() -> None:
    g = generator(2)
    X, Y = torch.randn(20, 4, generator=g), torch.randn(20, 4, generator=g)
    times = torch.randint(0, 4, (20,), generator=g)
    repeated = procrustes(X.repeat_interleave(times, dim=0), Y.repeat_interleave(times, dim=0))
    torch.testing.assert_close(procrustes(X, Y, times.float()), repeated, atol=1e-5, rtol=0)


def test_stays_orthogonal_with_fewer_pairs_than_dimensions() -> None:
    g = generator(4)
    W = procrustes(torch.randn(3, 10, generator=g), torch.randn(3, 10, generator=g))
    torch.testing.assert_close(W @ W.T, torch.eye(10), atol=1e-5, rtol=0)


WIDTHS = [(4, 7), (7, 4), (5, 5)]


def gram(W: Tensor) -> Tensor:
    """`W^T W` or `W W^T`, the smaller: the identity where `W` is semi-orthogonal."""
    return W.T @ W if W.shape[0] >= W.shape[1] else W @ W.T


@pytest.mark.parametrize(("width", "into"), WIDTHS)
def test_between_widths_the_map_is_semi_orthogonal_and_the_best(width: int, into: int) -> None:
    g = generator(6)
    X, Y = torch.randn(40, width, generator=g), torch.randn(40, into, generator=g)
    found = procrustes(X, Y)
    assert found.shape == (into, width)
    torch.testing.assert_close(gram(found), torch.eye(min(width, into)), atol=1e-5, rtol=0)

    def agreement(W: Tensor) -> float:
        return float((X @ W.T * Y).sum())

    assert all(agreement(found) > agreement(random_orthogonal(width, g, into)) for _ in range(200))
    # The greatest agreement is the sum of the singular values of Y^T X.
    assert agreement(found) == pytest.approx(float(torch.linalg.svdvals(Y.T @ X).sum()), rel=1e-5)


@pytest.mark.parametrize(("width", "into"), WIDTHS)
def test_finds_a_hidden_map_between_widths(width: int, into: int) -> None:
    W = random_orthogonal(width, generator(3), into)
    if into >= width:
        X = torch.randn(50, width, generator=generator(1))
        torch.testing.assert_close(procrustes(X, X @ W.T), W, atol=1e-5, rtol=0)
    else:  # what the narrower space cannot hold is not in the rows
        Y = torch.randn(50, into, generator=generator(1))
        torch.testing.assert_close(procrustes(Y @ W, Y), W, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "into"), WIDTHS)
def test_stays_semi_orthogonal_with_fewer_pairs_than_dimensions(width: int, into: int) -> None:
    g = generator(4)
    W = procrustes(torch.randn(2, width, generator=g), torch.randn(2, into, generator=g))
    torch.testing.assert_close(gram(W), torch.eye(min(width, into)), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "into"), WIDTHS)
def test_nearest_orthogonal_between_widths_has_the_singular_vectors(width: int, into: int) -> None:
    W = torch.randn(into, width, generator=generator(8))
    found = nearest_orthogonal(W)
    torch.testing.assert_close(gram(found), torch.eye(min(width, into)), atol=1e-5, rtol=0)
    # The distance is the one of the singular values from 1 (Fan & Hoffman 1955).
    expected = (torch.linalg.svdvals(W) - 1).norm()
    torch.testing.assert_close((W - found).norm(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "into"), WIDTHS)
def test_orthogonalise_moves_singular_values_to_one_between_widths(width: int, into: int) -> None:
    W = random_orthogonal(width, generator(1), into) * 1.1
    values = torch.linalg.svdvals(orthogonalise(W, 0.3))
    torch.testing.assert_close(values, torch.full_like(values, 1.3 * 1.1 - 0.3 * 1.1**3), atol=1e-5, rtol=0)
    for _ in range(60):
        W = orthogonalise(W, 0.3)
    torch.testing.assert_close(gram(W), torch.eye(min(width, into)), atol=1e-5, rtol=0)


def test_nearest_orthogonal_is_the_polar_factor() -> None:
    W = random_orthogonal(6, generator(1))
    g = generator(2)
    root = torch.randn(6, 6, generator=g)
    positive = root @ root.T + torch.eye(6)
    torch.testing.assert_close(nearest_orthogonal(W @ positive), W, atol=1e-5, rtol=0)


def test_orthogonalise_keeps_an_orthogonal_map() -> None:
    W = random_orthogonal(12, generator(1))
    torch.testing.assert_close(orthogonalise(W, 0.3), W, atol=1e-5, rtol=0)


def test_orthogonalise_pulls_a_near_map_nearer() -> None:
    W = random_orthogonal(12, generator(1)) + 0.02 * torch.randn(12, 12, generator=generator(2))
    distances = []
    for _ in range(5):
        distances.append(float((W @ W.T - torch.eye(12)).norm()))
        W = orthogonalise(W, 0.2)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.5 * distances[0]


def test_orthogonalise_is_the_published_update_on_a_multiple_of_the_identity() -> None:
    torch.testing.assert_close(orthogonalise(2 * torch.eye(3), 0.01), (1.01 * 2 - 0.01 * 8) * torch.eye(3))
