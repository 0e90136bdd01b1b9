"""The unsupervised criterion and the refinement."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from trelm.alignment.criterion import (
    NULL_MARGIN,
    beats_null,
    best_of,
    mean_cosine_criterion,
    null_criterion,
    random_orthogonal,
    refine,
)
from trelm.alignment.ridge import ridge


def cloud(n: int, d: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g) * torch.linspace(1.5, 0.5, d)


def rotated(Y: Tensor, seed: int = 9) -> tuple[Tensor, Tensor]:
    """`X`, and the `W` with `X @ W.T = Y`."""
    W = random_orthogonal(Y.shape[1], torch.Generator().manual_seed(seed))
    return Y @ W, W


def test_of_equal_tables_is_one() -> None:
    Y = cloud(60, 8, 1)
    assert mean_cosine_criterion(3 * Y, Y, entries=60) == pytest.approx(1, abs=1e-5)


def test_is_the_mean_cosine_with_the_translation() -> None:
    # Every image lies 30 degrees from its own basis vector and farther from all others.
    Y = torch.eye(4)
    angle = torch.tensor(torch.pi / 6)
    images = torch.eye(4) * angle.cos() + torch.eye(4).roll(1, dims=1) * angle.sin()
    assert mean_cosine_criterion(images, Y, entries=4, k=1) == pytest.approx(float(angle.cos()), abs=1e-6)


def test_looks_only_at_the_most_frequent_rows_of_both_sides() -> None:
    Y = cloud(60, 8, 1)
    mapped, changed = Y.clone(), Y.clone()
    mapped[20:], changed[20:] = cloud(40, 8, 2), cloud(40, 8, 3)
    assert mean_cosine_criterion(mapped, changed, entries=20) == pytest.approx(1, abs=1e-5)
    assert mean_cosine_criterion(mapped, changed, entries=60) < 0.95


def test_null_is_below_the_true_map_and_the_same_for_a_seed() -> None:
    Y = cloud(200, 12, 1)
    X, W = rotated(Y)
    same = {"entries": 200, "k": 10, "criterion_entries": 200, "seed": 4}
    null = null_criterion(X, Y, rounds=0, **same)
    assert null == null_criterion(X, Y, rounds=0, **same)
    refined = null_criterion(X, Y, rounds=2, **same)
    assert null + 0.02 < refined  # self-made dictionaries raise the criterion of any map
    true = mean_cosine_criterion(X @ W.T, Y, entries=200)
    assert beats_null(true, refined)
    assert not beats_null(refined + NULL_MARGIN / 2, refined)


def test_best_of_a_history() -> None:
    assert best_of([{"criterion": 0.1}, {"criterion": 0.3}, {"criterion": 0.2}]) == 0.3


def test_random_orthogonal_is_orthogonal() -> None:
    W = random_orthogonal(20, torch.Generator().manual_seed(1))
    torch.testing.assert_close(W @ W.T, torch.eye(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "into"), [(5, 9), (9, 5)])
def test_random_orthogonal_between_widths(width: int, into: int) -> None:
    W = random_orthogonal(width, torch.Generator().manual_seed(1), into)
    assert W.shape == (into, width)
    gram = W.T @ W if into > width else W @ W.T
    torch.testing.assert_close(gram, torch.eye(5), atol=1e-5, rtol=0)


def test_random_orthogonal_prefers_no_direction() -> None:
    g = torch.Generator().manual_seed(1)
    maps = torch.stack([random_orthogonal(2, g, 3) for _ in range(4000)])
    torch.testing.assert_close(maps.mean(dim=0), torch.zeros(3, 2), atol=0.05, rtol=0)
    torch.testing.assert_close(maps.square().mean(dim=0), torch.full((3, 2), 1 / 3), atol=0.03, rtol=0)


@pytest.mark.parametrize(("width", "into"), [(8, 12), (12, 8)])
def test_refinement_between_widths_improves_a_noisy_map(width: int, into: int) -> None:
    W = random_orthogonal(width, torch.Generator().manual_seed(9), into)
    Y = cloud(400, into, 1) if into < width else cloud(400, width, 1) @ W.T
    X = Y @ W
    noisy = W + 0.1 * torch.randn(into, width, generator=torch.Generator().manual_seed(2))
    refined, history = refine(X, Y, noisy, rounds=4, entries=400)
    assert (refined - W).norm() < 1e-3 < (noisy - W).norm()
    assert history[-1]["dictionary"] == 400


def test_refinement_fits_what_it_is_told_to() -> None:
    Y = cloud(400, 6, 1)
    X = Y * torch.linspace(0.4, 2, 6)  # undone by least squares, not by any rotation
    start = torch.eye(6)
    rotated_map, _ = refine(X, Y, start, rounds=3, entries=400)
    linear, _ = refine(X, Y, start, rounds=3, entries=400, fit=lambda X_d, Y_d: ridge(X_d, Y_d, penalty=1e-6))
    assert mean_cosine_criterion(X @ linear.T, Y, entries=400) > 0.999
    assert mean_cosine_criterion(X @ rotated_map.T, Y, entries=400) < 0.99


def test_null_between_widths_and_of_another_fit() -> None:
    Y, X = cloud(200, 12, 1), cloud(200, 8, 2)
    same: dict[str, Any] = {"rounds": 1, "entries": 200, "k": 10, "criterion_entries": 200, "seed": 4}
    fitted = null_criterion(X, Y, **same, fit=ridge)
    assert 0 < null_criterion(X, Y, **same) < 1
    assert fitted != null_criterion(X, Y, **same)


def test_refinement_improves_a_noisy_map() -> None:
    Y = cloud(400, 12, 1)
    X, W = rotated(Y)
    noisy = W + 0.15 * torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    seen: list[dict[str, Any]] = []
    refined, history = refine(X, Y, noisy, rounds=4, entries=400, on_round=seen.append)
    assert (refined - W).norm() < 1e-3 < (noisy - W).norm()
    assert [entry["round"] for entry in history] == [0, 1, 2, 3, 4]
    assert seen == history[1:]
    assert history[0]["dictionary"] == 0
    assert history[0]["criterion"] < history[-1]["criterion"]
    assert history[-1]["dictionary"] == 400


def test_refinement_keeps_the_map_that_no_round_betters() -> None:
    Y = cloud(300, 12, 1)
    X, W = rotated(Y)
    stretched = torch.diag(torch.linspace(0.2, 3, 12)) @ W
    X_own = X @ torch.linalg.inv(stretched.T @ W).T  # only the stretched map fits, and Procrustes cannot make it
    fitting = W @ stretched.T @ W
    refined, history = refine(X_own, Y, fitting, rounds=2, entries=300)
    assert history[0]["criterion"] == pytest.approx(1, abs=1e-4)
    assert refined is fitting


def test_no_round_leaves_the_map_alone() -> None:
    Y = cloud(50, 6, 1)
    W = torch.eye(6)
    refined, history = refine(Y, Y, W, rounds=0, entries=50)
    assert refined is W
    assert len(history) == 1


def test_dictionary_takes_only_the_most_frequent_entries() -> None:
    Y = cloud(100, 8, 1)
    X, W = rotated(Y)
    _, history = refine(X, Y, W, rounds=1, entries=30, criterion_entries=100)
    assert history[1]["dictionary"] == 30
