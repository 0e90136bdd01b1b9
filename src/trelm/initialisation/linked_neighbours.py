"""Rows for entries with few word links or none: mixtures of source rows, found through their like that have links."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from trelm.alignment.csls import unit_rows
from trelm.alignment.linked import mixed_by_links
from trelm.alignment.neighbours import neighbour_weights
from trelm.initialisation.mixture import NEIGHBOURS, Mixture, normalised, nothing


def linked_neighbours(
    vectors: NDArray[np.float32],
    rows: NDArray[np.bool_],
    linked: Mixture,
    link_counts: NDArray[np.floating],
    table: NDArray[np.float32],
    usable: NDArray[np.bool_],
) -> Mixture:
    """Each of `rows` as a convex mixture of source rows, by `trelm.alignment.linked.mixed_by_links`.

    The entries with links say where their neighbours among the subword vectors belong; the nearest source rows there
    are mixed. Rows with links get a mixture too; lay the links' own rows over it.

    Args:
        vectors: [V, d], subword vectors. rows: bool [V], entries of one language, all with a vector.
        linked: the rows that have links enough (`counts`). link_counts: [V], links of each entry in all.
        table: [V_s, d], the source's word table. usable: bool [V_s], rows that may be taken: neither special nor
            reserved ones.

    Raises:
        ValueError: the shapes do not fit together, or none of `rows` has links.
    """
    _check(vectors, rows, linked, table, usable)
    mine = np.flatnonzero(rows)
    seeds = np.flatnonzero(linked.covered[mine])
    if not len(seeds):
        raise ValueError("linked_neighbours: expected a row with links among the rows, found none")
    Y, centre = _centred(table[usable])
    length = float(Y.norm(dim=1).mean())
    targets = (torch.from_numpy(linked.of(table)[mine[seeds]]) - centre) / length
    weights = torch.from_numpy(np.log1p(link_counts[mine[seeds]]).astype(np.float32))
    X = unit_rows(_centred(vectors[mine])[0])
    return _mixture(*mixed_by_links(X, Y, torch.from_numpy(seeds), targets, weights), mine, usable, linked)


def image_neighbours(
    images: NDArray[np.float32], rows: NDArray[np.bool_], table: NDArray[np.float32], usable: NDArray[np.bool_]
) -> Mixture:
    """Each of `rows` as a convex mixture of the source rows nearest to its image under an alignment.

    Args:
        images: [V, d], in the space of the table; only those of `rows` (bool [V]) are looked at.
        table: [V_s, d]. usable: bool [V_s].
    """
    mine, empty = np.flatnonzero(rows), nothing((len(images), len(table)))
    if not len(mine):
        return empty
    Y, centre = _centred(table[usable])
    return _mixture(*neighbour_weights(torch.from_numpy(images[mine]) - centre, Y), mine, usable, empty)


def _centred(table: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(table)
    centre = rows.mean(dim=0)
    return rows - centre, centre


def _mixture(
    indices: torch.Tensor,
    weights: torch.Tensor,
    mine: NDArray[np.int64],
    usable: NDArray[np.bool_],
    like: Mixture,
) -> Mixture:
    """The mixture of `weights` [n, k] over the usable source rows `indices` [n, k], of the rows `mine` [n]."""
    columns = np.flatnonzero(usable)[indices.numpy()]
    places = (np.repeat(mine, columns.shape[1]), columns.ravel())
    return normalised(csr_matrix((weights.numpy().ravel(), places), shape=like.weights.shape), NEIGHBOURS)


def _check(
    vectors: NDArray[np.float32],
    rows: NDArray[np.bool_],
    linked: Mixture,
    table: NDArray[np.float32],
    usable: NDArray[np.bool_],
) -> None:
    shape = (len(vectors), len(table))
    if rows.shape != shape[:1] or usable.shape != shape[1:] or linked.weights.shape != shape:
        raise ValueError(
            f"linked_neighbours: expected rows {shape[:1]}, usable {shape[1:]} and a mixture {shape}, "
            f"found {rows.shape}, {usable.shape} and {linked.weights.shape}"
        )
