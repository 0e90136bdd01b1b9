"""Rows of entries without links, from those with links."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trelm.alignment.criterion import random_orthogonal
from trelm.alignment.csls import unit_rows
from trelm.alignment.linked import mixed_by_links
from trelm.alignment.neighbours import combine, neighbour_weights
from trelm.initialisation import Mixture, counts, image_neighbours, linked_neighbours, nothing

V, SOURCES, WIDTH = 130, 125, 10
ROWS = np.arange(V) >= 5  # the first five are of the other language
USABLE = np.arange(SOURCES) >= 5


def world(linked: int) -> tuple[np.ndarray, np.ndarray, Mixture, np.ndarray]:
    """Clustered vectors, a table that is them turned, shifted and stretched, and links of the first `linked` rows."""
    g = torch.Generator().manual_seed(1)
    centres = torch.randn(12, WIDTH, generator=g)
    X = unit_rows(centres[torch.arange(V - 5) % 12] + 0.5 * torch.randn(V - 5, WIDTH, generator=g))
    vectors = torch.cat([torch.full((5, WIDTH), 7.0), X + 0.3]).numpy()
    table = torch.cat([torch.full((5, WIDTH), -9.0), 2 * X[: SOURCES - 5] @ random_orthogonal(WIDTH, g).T - 0.1])
    pairs = np.stack([np.arange(5, 5 + linked), np.arange(5, 5 + linked)], axis=1)
    numbers = np.arange(linked) % 4 + 5.0
    totals = np.bincount(pairs[:, 0], weights=numbers, minlength=V)
    return vectors, table.numpy(), counts(pairs, numbers, (V, SOURCES)), totals


def test_is_the_mixture_by_links_of_the_usable_rows() -> None:
    vectors, table, linked, totals = world(80)
    found = linked_neighbours(vectors, ROWS, linked, totals, table, USABLE)
    X, Y = torch.from_numpy(vectors[5:]), torch.from_numpy(table[5:])
    Y = Y - Y.mean(dim=0)
    seeds = torch.arange(80)
    weights = torch.from_numpy(np.log1p(totals[5:85])).float()
    targets = Y[seeds] / Y.norm(dim=1).mean()
    indices, shares = mixed_by_links(unit_rows(X - X.mean(dim=0)), Y, seeds, targets, weights)
    expected = combine(indices, shares, torch.from_numpy(table[5:]))
    np.testing.assert_allclose(found.of(table)[5:], expected.numpy(), atol=1e-4)
    assert found.counts["neighbours"] == V - 5


def test_entries_without_links_find_their_translations_and_nobody_takes_special_rows() -> None:
    vectors, table, linked, totals = world(80)
    found = linked_neighbours(vectors, ROWS, linked, totals, table, USABLE)
    best = np.asarray(found.weights.argmax(axis=1)).ravel()
    unlinked = np.arange(85, SOURCES)
    assert (best[unlinked] == unlinked).mean() > 0.9
    assert not found.weights[:, :5].nnz
    assert not found.covered[:5].any()


def test_images_take_their_nearest_rows() -> None:
    _, table, _, _ = world(80)
    images = np.concatenate([table, table[-5:]]) + 0.01
    found = image_neighbours(images, ROWS, table, USABLE)
    Y = torch.from_numpy(table[5:])
    centre = Y.mean(dim=0)
    indices, shares = neighbour_weights(torch.from_numpy(images[5:]) - centre, Y - centre)
    np.testing.assert_allclose(found.of(table)[5:], combine(indices, shares, Y).numpy(), atol=1e-5)
    best = np.asarray(found.weights.argmax(axis=1)).ravel()
    assert (best[5:SOURCES] == np.arange(5, SOURCES)).all()


def test_no_rows_are_no_mixture() -> None:
    _, table, _, _ = world(80)
    found = image_neighbours(np.zeros((V, WIDTH), np.float32), np.zeros(V, bool), table, USABLE)
    assert found.counts == nothing((V, SOURCES)).counts


def test_shapes_and_links_are_checked() -> None:
    vectors, table, linked, totals = world(80)
    with pytest.raises(ValueError, match=r"expected rows \(130,\), usable \(125,\) and a mixture \(130, 125\), found"):
        linked_neighbours(vectors, ROWS[1:], linked, totals, table, USABLE)
    with pytest.raises(ValueError, match="expected a row with links among the rows, found none"):
        linked_neighbours(vectors, ROWS, nothing((V, SOURCES)), totals, table, USABLE)
