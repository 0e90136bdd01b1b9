"""Kernel regression against numpy, its limits and its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from trelm.alignment.kernel import kernel, kernel_regression


def table(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def ones(n: int) -> Tensor:
    return torch.ones(n)


def test_kernel_is_the_gaussian_of_the_distance_on_the_sphere() -> None:
    a, b = table(4, 3, 1), table(5, 3, 2)
    unit_a, unit_b = (rows / rows.norm(dim=1, keepdim=True) for rows in (a, b))
    expected = (-1.5 * torch.cdist(unit_a, unit_b).square() / 2).exp()
    torch.testing.assert_close(kernel(a, b, 1.5), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("chunk", [3, 100])
def test_equals_the_closed_form(chunk: int) -> None:
    X, X_d, Y_d, weights = table(10, 4, 1), table(15, 4, 2), table(15, 6, 3), table(15, 1, 4)[:, 0].abs() + 0.1
    between, within = (
        np.exp(2 * (np.einsum("nd,md->nm", u, v) - 1))
        for u, v in (
            [(rows / np.linalg.norm(rows, axis=1, keepdims=True)) for rows in pair]
            for pair in ((X.double().numpy(), X_d.double().numpy()), (X_d.double().numpy(), X_d.double().numpy()))
        )
    )
    system = within + np.diag(0.5 / weights.double().numpy())
    expected = between @ np.linalg.solve(system, Y_d.double().numpy())
    found = kernel_regression(X, X_d, Y_d, weights, penalty=0.5, chunk=chunk)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_weights_equal_repetition() -> None:
    X, X_d, Y_d = table(6, 4, 1), table(12, 4, 2), table(12, 4, 3)
    times = torch.randint(1, 4, (12,), generator=torch.Generator().manual_seed(4))
    seeds, targets = (rows.repeat_interleave(times, dim=0) for rows in (X_d, Y_d))
    expected = kernel_regression(X, seeds, targets, ones(int(times.sum())))
    torch.testing.assert_close(kernel_regression(X, X_d, Y_d, times.float()), expected, atol=1e-4, rtol=0)


def test_a_small_penalty_gives_the_seeds_back_and_a_great_one_nothing() -> None:
    X_d, Y_d = table(20, 8, 1), table(20, 3, 2)
    exact = kernel_regression(X_d, X_d, Y_d, ones(20), sharpness=5, penalty=1e-5)
    torch.testing.assert_close(exact, Y_d, atol=1e-2, rtol=0)
    assert kernel_regression(X_d, X_d, Y_d, ones(20), penalty=1e6).abs().max() < 1e-4


def test_a_map_that_bends_is_followed_where_no_linear_map_can() -> None:
    X_d = table(400, 3, 1)
    X_d = X_d / X_d.norm(dim=1, keepdim=True)
    X = X_d[:50] + 0.01 * table(50, 3, 2)
    found = kernel_regression(X, X_d, X_d.square() - 1 / 3, ones(400), penalty=0.01)
    wanted = (X / X.norm(dim=1, keepdim=True)).square() - 1 / 3
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    linear = X @ torch.linalg.lstsq(X_d, X_d.square() - 1 / 3).solution
    assert (linear - wanted).norm() > 0.9 * wanted.norm()


def test_columns_do_not_know_of_each_other() -> None:
    X, X_d, Y_d = table(5, 4, 1), table(9, 4, 2), table(9, 3, 3)
    whole = kernel_regression(X, X_d, Y_d, ones(9))
    one = kernel_regression(X, X_d, Y_d[:, 1:2], ones(9))
    torch.testing.assert_close(whole[:, 1:2], one, atol=1e-6, rtol=0)


def test_too_many_seeds_leave_those_of_greatest_weight() -> None:
    X, X_d, Y_d = table(5, 4, 1), table(9, 4, 2), table(9, 3, 3)
    weights = torch.tensor([1.0, 5, 1, 5, 1, 5, 1, 1, 1])
    expected = kernel_regression(X, X_d[[1, 3, 5, 0]], Y_d[[1, 3, 5, 0]], weights[[1, 3, 5, 0]])
    found = kernel_regression(X, X_d, Y_d, weights, most_seeds=4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_lengths_of_the_vectors_do_not_matter() -> None:
    X, X_d, Y_d = table(5, 4, 1), table(9, 4, 2), table(9, 3, 3)
    found = kernel_regression(7 * X, 3 * X_d, Y_d, ones(9))
    torch.testing.assert_close(found, kernel_regression(X, X_d, Y_d, ones(9)), atol=1e-5, rtol=0)


def test_wrong_shapes_and_settings_are_refused() -> None:
    X, Y = table(5, 4, 1), table(5, 3, 2)
    with pytest.raises(ValueError, match=r"expected \[n, d\], \[p, d\], \[p, d'\] and \[p\] with p above 0, found"):
        kernel_regression(X, X, Y[:4], ones(5))
    with pytest.raises(ValueError, match=r"found \(5, 4\), \(0, 4\), \(0, 3\), \(0,\)"):
        kernel_regression(X, X[:0], Y[:0], ones(0))
    with pytest.raises(ValueError, match=r"expected sharpness, penalty and weights above 0, found 0\.0, 3\.0 and 1\.0"):
        kernel_regression(X, X, Y, ones(5), sharpness=0.0)
    with pytest.raises(ValueError, match=r"found 2\.0, 0\.0 and 1\.0"):
        kernel_regression(X, X, Y, ones(5), penalty=0.0)
    with pytest.raises(ValueError, match=r"found 2\.0, 3\.0 and 0\.0"):
        kernel_regression(X, X, Y, torch.zeros(5))
