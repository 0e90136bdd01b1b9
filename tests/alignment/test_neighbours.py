"""Combinations of neighbours against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trelm.alignment.neighbours import combine, neighbour_weights


def table(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def top_mean(row: Tensor, k: int) -> float:
    return float(row.sort(descending=True).values[:k].mean())


def brute_force(images: Tensor, Y: Tensor, k: int, temperature: float, csls_k: int) -> Tensor:
    """The dense weights [n, m]."""
    cosines = torch.nn.functional.cosine_similarity(images[:, None], Y[None], dim=2).double()
    dense = torch.zeros_like(cosines)
    for i in range(len(images)):
        scores = [
            2 * float(cosines[i, j]) - top_mean(cosines[i], csls_k) - top_mean(cosines[:, j], csls_k)
            for j in range(len(Y))
        ]
        best = sorted(range(len(Y)), key=lambda j: -scores[j])[:k]
        powers = {j: math.exp((scores[j] - scores[best[0]]) / temperature) for j in best}
        for j in best:
            dense[i, j] = powers[j] / sum(powers.values())
    return dense


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 8), m=st.integers(1, 8), k=st.integers(1, 10), chunk=st.integers(1, 9), seed=st.integers(0, 999)
)
def test_equals_brute_force(n: int, m: int, k: int, chunk: int, seed: int) -> None:
    images, Y = table(n, 4, seed), table(m, 4, seed + 1)
    indices, weights = neighbour_weights(images, Y, k=k, temperature=0.2, csls_k=3, chunk=chunk)
    assert indices.shape == weights.shape == (n, min(k, m))
    dense = torch.zeros(n, m, dtype=torch.float64).scatter(1, indices, weights)
    expected = brute_force(images, Y, k, 0.2, 3)
    torch.testing.assert_close(dense, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(combine(indices, weights, Y, chunk), (expected @ Y.double()).float(), atol=1e-3, rtol=0)


def test_rows_sum_to_one_best_first() -> None:
    _, weights = neighbour_weights(table(20, 6, 1), table(30, 6, 2), k=5)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(20, dtype=torch.float64), atol=1e-12, rtol=0)
    assert (weights.diff(dim=1) <= 0).all()
    assert (weights > 0).all()


def test_a_low_temperature_leaves_the_nearest_alone() -> None:
    Y = table(30, 6, 2)
    indices, weights = neighbour_weights(Y + 0.01, Y, temperature=1e-4)
    assert indices[:, 0].equal(torch.arange(30))
    torch.testing.assert_close(combine(indices, weights, Y), Y, atol=1e-5, rtol=0)


def test_bad_settings_are_refused() -> None:
    Y = table(4, 3, 1)
    with pytest.raises(ValueError, match=r"expected k and temperature above 0, found 0 and 0\.1"):
        neighbour_weights(Y, Y, k=0)
    with pytest.raises(ValueError, match="expected k and temperature above 0, found 10 and 0"):
        neighbour_weights(Y, Y, temperature=0)
