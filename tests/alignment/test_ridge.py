"""Ridge regression against numpy's solution of the normal equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trelm.alignment.ridge import ridge


def table(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [5, 8])
def test_equals_the_closed_form_and_the_widths_may_differ(width: int) -> None:
    X, Y, weights = table(40, 5, 1), table(40, width, 2), table(40, 1, 3)[:, 0].abs()
    x, y, D = X.double().numpy(), Y.double().numpy(), np.diag(weights.double().numpy())
    gram = x.T @ D @ x
    expected = np.linalg.solve(gram + 0.3 * np.trace(gram) / 5 * np.eye(5), x.T @ D @ y).T
    found = ridge(X, Y, weights, penalty=0.3)
    assert found.shape == (width, 5)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_finds_a_hidden_map_that_is_not_orthogonal() -> None:
    X, W = table(60, 6, 1), table(4, 6, 2)
    torch.testing.assert_close(ridge(X, X @ W.T, penalty=1e-9), W, atol=1e-5, rtol=0)


def test_weights_equal_repetition() -> None:
    X, Y = table(20, 4, 1), table(20, 4, 2)
    times = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(3))
    repeated = ridge(X.repeat_interleave(times, dim=0), Y.repeat_interleave(times, dim=0))
    torch.testing.assert_close(ridge(X, Y, times.float()), repeated, atol=1e-6, rtol=0)


def test_the_number_and_the_length_of_the_rows_do_not_change_the_images() -> None:
    X, Y = table(30, 5, 1), table(30, 5, 2)
    images = X @ ridge(X, Y).T
    torch.testing.assert_close(X @ ridge(X.repeat(3, 1), Y.repeat(3, 1)).T, images, atol=1e-6, rtol=0)
    torch.testing.assert_close(100 * X @ ridge(100 * X, Y).T, images, atol=1e-6, rtol=0)


def test_a_greater_penalty_gives_shorter_images() -> None:
    X, Y = table(30, 5, 1), table(30, 5, 2)
    lengths = [float((X @ ridge(X, Y, penalty=penalty).T).norm()) for penalty in (0.01, 0.1, 1, 10)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < 0.5 * lengths[0]


def test_fewer_pairs_than_dimensions_and_zero_rows_give_finite_maps() -> None:
    assert ridge(table(3, 10, 1), table(3, 10, 2)).isfinite().all()
    assert ridge(torch.zeros(3, 4), table(3, 4, 2)).equal(torch.zeros(4, 4))


def test_wrong_shapes_and_penalties_are_refused() -> None:
    X = table(5, 3, 1)
    with pytest.raises(ValueError, match=r"expected pairs \[p, d\] and \[p, d'\] and weights \[p\], found"):
        ridge(X, X[:4])
    with pytest.raises(ValueError, match=r"found \(5, 3\), \(5, 3\) and \(4,\)"):
        ridge(X, X, torch.ones(4))
    with pytest.raises(ValueError, match="expected a penalty above 0, found 0"):
        ridge(X, X, penalty=0)
