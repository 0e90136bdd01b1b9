"""Entries mapped by their linked neighbours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trelm.alignment.criterion import random_orthogonal
from trelm.alignment.csls import unit_rows
from trelm.alignment.kernel import kernel_regression
from trelm.alignment.linked import linked_images, mixed_by_links
from trelm.alignment.procrustes import procrustes


def space(n: int = 120, d: int = 10) -> tuple[Tensor, Tensor]:
    """Clustered unit rows, and the same turned."""
    g = torch.Generator().manual_seed(1)
    centres = torch.randn(12, d, generator=g)
    X = unit_rows(centres[torch.arange(n) % 12] + 0.5 * torch.randn(n, d, generator=g))
    return X, X @ random_orthogonal(d, g).T


def test_is_the_sum_of_its_two_parts() -> None:
    X, Y = space()
    rows, weights = torch.arange(0, 120, 2), torch.linspace(0.5, 2, 60)
    smooth = kernel_regression(X, X[rows], Y[rows], weights, sharpness=3, penalty=0.5)
    turned = X @ procrustes(X[rows], Y[rows], weights).T
    found = linked_images(X, rows, Y[rows], weights, orthogonal_share=0.4, sharpness=3, penalty=0.5)
    torch.testing.assert_close(found, smooth + 0.4 * turned, atol=1e-5, rtol=0)
    alone = linked_images(X, rows, Y[rows], weights, orthogonal_share=0, sharpness=3, penalty=0.5)
    torch.testing.assert_close(alone, smooth, atol=1e-6, rtol=0)


def test_entries_without_links_find_their_translations() -> None:
    X, Y = space()
    rows = torch.arange(80)
    indices, weights = mixed_by_links(X, Y, rows, Y[rows], torch.ones(80), k=4)
    assert indices.shape == weights.shape == (120, 4)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(120, dtype=torch.float64), atol=1e-12, rtol=0)
    unlinked = torch.arange(80, 120)
    assert (indices[unlinked, 0] == unlinked).float().mean() > 0.9  # a guess finds 1 in 120


def test_settings_and_widths_are_checked() -> None:
    X, Y = space()
    rows = torch.arange(80)
    with pytest.raises(ValueError, match="expected an orthogonal share of 0 or more, found -1"):
        linked_images(X, rows, Y[rows], torch.ones(80), orthogonal_share=-1)
    with pytest.raises(ValueError, match="expected tables of one width, found 10 and 7"):
        linked_images(X, rows, Y[rows, :7], torch.ones(80))
