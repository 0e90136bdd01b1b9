"""FOCUS (Dobler & de Melo 2023): entries in common are copied, the others mix the entries in common most like them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack

from trelm.initialisation.mixture import NEIGHBOURS, SHARED, SPECIAL, Mixture, normalised, one_hot, overlay
from trelm.initialisation.sparsemax import sparsemax
from trelm.initialisation.surface import Surface

CELLS = 4_000_000  # of the matrix of cosines that are held at a time: 32 MB for each of a handful of float64 arrays


def overlap(surfaces: Sequence[Surface], source_surfaces: Sequence[Surface]) -> NDArray[np.int64]:
    """Entries of the same canonical form, that is of the same text at the same place in a word: int64 [p, 2].

    Each pair is a row of the new vocabulary, in rising order, and a row of the source's, the first where several have
    that form. Entries without a text of their own (special tokens, bytes) are in no pair.
    """
    first: dict[tuple[str, bool], int] = {}
    for row, surface in enumerate(source_surfaces):
        if surface.text is not None:
            first.setdefault((surface.text, surface.begins_word), row)
    forms = (
        (row, (surface.text, surface.begins_word)) for row, surface in enumerate(surfaces) if surface.text is not None
    )
    return np.array([(row, first[form]) for row, form in forms if form in first], dtype=np.int64).reshape(-1, 2)


def focus(
    vectors: NDArray[np.float32],
    has_vector: NDArray[np.bool_],
    shared: NDArray[np.int64],
    *,
    specials: NDArray[np.int64],
    source_size: int,
    cells: int = CELLS,
) -> Mixture:
    """The FOCUS mixture. Special tokens take the row of the same role; shared entries the row of their partner; another
    entry n with a vector `sum_o w_o E_s[o]`, `w = sparsemax of cos(f(n), f(o))` over the shared entries o with one.

    Nothing is left for entries without a vector, and for all that are not shared where no shared entry has a vector.

    Args:
        vectors: [V, k], static vectors of the new vocabulary's entries, trained on target-language text in its entries.
        has_vector: bool [V]; rows of `vectors` without are not looked at.
        shared: int64 [p, 2], a row of the new vocabulary and its partner in the source's (`overlap`).
        specials: int64 [q, 2], likewise (`vocabulary.special_rows`).
        source_size: V_s.
        cells: cosines that are held at a time: the memory does not grow with V.

    Raises:
        ValueError: the shapes do not fit together, or a vector that is used is not finite or zero.
    """
    _check(vectors, has_vector)
    shape = (len(vectors), source_size)
    copied = overlay(one_hot(specials, shape, SPECIAL), one_hot(shared, shape, SHARED))
    landmarks = shared[has_vector[shared[:, 0]] & ~np.isin(shared[:, 0], specials[:, 0])]
    new = np.flatnonzero(has_vector & ~copied.covered)
    if not len(landmarks) or not len(new):
        return copied
    mixed = vstack(list(_mixed(vectors[new], vectors[landmarks[:, 0]], cells))).tocoo()
    places = (new[mixed.row], landmarks[mixed.col, 1])
    return overlay(copied, normalised(csr_matrix((mixed.data, places), shape=shape), NEIGHBOURS))


def _mixed(new: NDArray[np.float32], landmarks: NDArray[np.float32], cells: int) -> Iterator[csr_matrix]:
    """Sparsemax of the cosines of some rows of `new` [n, k] with all of `landmarks` [p, k] at a time."""
    queries, keys = _unit(new), _unit(landmarks).T
    step = max(1, cells // len(landmarks))
    for start in range(0, len(queries), step):
        yield csr_matrix(sparsemax(queries[start : start + step] @ keys))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True))


def _check(vectors: NDArray[np.float32], has_vector: NDArray[np.bool_]) -> None:
    if vectors.ndim != 2 or has_vector.shape != vectors.shape[:1]:
        raise ValueError(
            f"focus: expected vectors [V, k] and has_vector [V], found {vectors.shape}, {has_vector.shape}"
        )
    used = vectors[has_vector]
    if not (np.isfinite(used).all() and used.any(axis=1).all()):
        raise ValueError("focus: expected finite vectors with a direction, found NaN, infinity or zeros in has_vector")
