"""Normalised tables and the way back."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from trelm.alignment.normalisation import Normalisation, at_length_of, iteratively, normalise

ALL: tuple[Normalisation, ...] = get_args(Normalisation)


def table(n: int = 300, d: int = 6, seed: int = 1) -> Tensor:
    """Rows of unequal, correlated dimensions, away from the origin."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g) + torch.linspace(1, 2, d)


def mean_distance(rows: Tensor, centre: Tensor) -> float:
    return float((rows - centre).norm(dim=1).mean())


def covariance(rows: Tensor) -> Tensor:
    return torch.cov(rows.T.double(), correction=0).float()


@pytest.mark.parametrize("how", ALL)
def test_a_zero_row_gives_finite_rows(how: Normalisation) -> None:
    rows = torch.cat([torch.zeros(1, 4), torch.ones(2, 4)])
    assert normalise(rows, how).rows.isfinite().all()


def test_none_changes_nothing() -> None:
    rows = table()
    normalised = normalise(rows, "none")
    assert normalised.rows is rows
    assert normalised.back(rows).equal(rows)


@pytest.mark.parametrize("how", ["unit", "centre-unit", "whiten"])
def test_rows_have_length_one(how: Normalisation) -> None:
    torch.testing.assert_close(normalise(table(), how).rows.norm(dim=1), torch.ones(300))


@pytest.mark.parametrize("how", ["centre-unit", "iterative"])
def test_images_come_back_around_the_mean_at_the_mean_length(how: Normalisation) -> None:
    rows = table()
    normalised = normalise(rows, how)
    back = normalised.back(normalised.rows)
    centre = rows.mean(dim=0)
    assert mean_distance(back, centre) == pytest.approx(mean_distance(rows, centre), rel=1e-2)
    if how == "iterative":  # centred: the place is the very same
        torch.testing.assert_close(back.mean(dim=0), centre, atol=1e-5, rtol=0)


def reference_iterations(rows: NDArray[np.float64], rounds: int) -> NDArray[np.float64]:
    for _ in range(rounds):
        rows = np.array([row / np.sqrt((row**2).sum()) for row in rows])
        rows = rows - rows.sum(axis=0) / len(rows)
    return rows


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_iterative_is_the_plain_loop(rounds: int) -> None:
    rows = table()
    expected = torch.from_numpy(reference_iterations(rows.double().numpy(), rounds)).float()
    torch.testing.assert_close(iteratively(rows, rounds), expected, atol=1e-4, rtol=0)
    if rounds == 5:
        torch.testing.assert_close(normalise(rows, "iterative").rows, expected, atol=1e-4, rtol=0)


def test_iterative_comes_to_length_one_and_mean_zero() -> None:
    rows = iteratively(table(), rounds=60)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(300), atol=1e-3, rtol=0)
    assert (iteratively(table(), 1).norm(dim=1) - 1).abs().mean() > 0.1


def test_iterative_stops_where_both_hold() -> None:
    rows = torch.cat([torch.eye(3), -torch.eye(3)])
    assert iteratively(rows).equal(rows)


def test_whitened_rows_have_no_preferred_direction() -> None:
    rows = table()
    normalised = normalise(rows, "whiten")
    centred = rows - rows.mean(dim=0)
    assert normalised.recolouring is not None
    # Before their lengths are set to 1 the rows have the identity as covariance.
    white = torch.linalg.solve(normalised.recolouring, centred.T).T
    torch.testing.assert_close(covariance(white), torch.eye(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.rows, white / white.norm(dim=1, keepdim=True), atol=1e-4, rtol=0)
    # ZCA: no direction is turned, the whitening is symmetric.
    torch.testing.assert_close(normalised.recolouring, normalised.recolouring.T)


def test_whitened_images_come_back_with_the_shape_of_the_table() -> None:
    rows = table(3000)
    normalised = normalise(rows, "whiten")
    back = normalised.back(normalised.rows)
    torch.testing.assert_close(back.mean(dim=0), rows.mean(dim=0), atol=0.05, rtol=0)
    ratio = torch.linalg.eigvalsh(covariance(back)) / torch.linalg.eigvalsh(covariance(rows))
    assert bool(((ratio > 0.8) & (ratio < 1.1)).all())
    # Rows whose white length is the mean one come back exactly: recolouring undoes whitening.
    centred = rows - rows.mean(dim=0)
    white_length = torch.linalg.solve(normalised.recolouring, centred.T).T.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        (back - normalised.centre) * white_length / normalised.scale, centred, atol=1e-3, rtol=1e-3
    )


def test_a_flat_direction_stays_flat() -> None:
    flat = torch.cat([table(), torch.full((300, 1), 3.0)], dim=1)
    normalised = normalise(flat, "whiten")
    back = normalised.back(normalised.rows)
    torch.testing.assert_close(back[:, 6], torch.full((300,), 3.0), atol=1e-4, rtol=0)


def test_images_take_the_mean_length_of_other_rows() -> None:
    images, rows = table(seed=1), table(seed=2)
    scaled = at_length_of(images, rows)
    assert mean_distance(scaled, torch.zeros(6)) == pytest.approx(mean_distance(rows, torch.zeros(6)), rel=1e-5)
    torch.testing.assert_close(scaled / scaled.norm(dim=1, keepdim=True), images / images.norm(dim=1, keepdim=True))
    nothing: Any = at_length_of(torch.zeros(3, 6), rows)
    assert not nothing.any()
