"""WECHSEL (Minixhofer et al. 2022): entries mix the source entries nearest to them in aligned spaces of word vectors.

The published package looks a WordPiece continuation up with its `##`, which then stands in n-grams that no word has,
and a byte-level piece that is no text as U+FFFD. Here an entry is looked up by its surface text; without one it has no
vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from trelm.alignment.procrustes import procrustes
from trelm.errors import DataError
from trelm.initialisation.mixture import NEIGHBOURS, SPECIAL, Mixture, normalised, one_hot, overlay
from trelm.initialisation.static_vectors import StaticVectors
from trelm.initialisation.surface import Surface

CELLS = 4_000_000  # of the matrix of cosines that are held at a time: 32 MB for each of a handful of arrays
_DIGITS, _TIE = 9, 1e-15  # cosines as near as this are ties; below a tie as long as there are fewer than 10^6 rows

Rows = NDArray[np.floating]


def entry_vectors(surfaces: Sequence[Surface], vectors: StaticVectors) -> NDArray[np.float32]:
    """The word vectors of a vocabulary's entries by their surface text, [V, k]: those of words, or of n-grams of words.

    A row of zeros is an entry without a vector: without a text, or without an n-gram that occurs in a word.
    """
    return vectors.composed([surface.text for surface in surfaces])[0]


def dictionary_vectors(
    dictionary: Iterable[tuple[str, str]], source: StaticVectors, target: StaticVectors
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The vectors [p, k] of a dictionary's words, row by row translations: those of the source and of the target.

    Each pair counts as it is, in lower case and in title case on either side, where both are words of the vectors.
    Forms that coincide count each time, as in the published package: a pair in lower case has four times the weight of
    one in title case.

    Args:
        dictionary: source word and target word.

    Raises:
        DataError: no pair is among the words.
    """
    pairs = [
        (x, y)
        for source_word, target_word in dictionary
        for x, y in product(_forms(source_word), _forms(target_word))
        if x in source and y in target
    ]
    if not pairs:
        raise DataError(
            "wechsel: expected dictionary entries of which both words occur in the text, found none; "
            "give a dictionary 'source<TAB>target' of these two languages, or more text"
        )
    return source.of([x for x, _ in pairs])[0], target.of([y for _, y in pairs])[0]


def wechsel(
    target_vectors: Rows,
    source_vectors: Rows,
    target_words: Rows,
    source_words: Rows,
    *,
    specials: NDArray[np.int64],
    neighbours: int = 10,
    temperature: float = 0.1,
    cells: int = CELLS,
) -> Mixture:
    """The WECHSEL mixture: `sum_k w_k E_s[k]` over the source entries k nearest by cosine, `w = softmax(cos / t)`.

    Source vectors are first turned into the target's space by the Procrustes solution of the dictionary's pairs. Only
    special tokens are copied, by role. Nothing is left for the other entries without a vector.

    Args:
        target_vectors: [V, k] and source_vectors: [V_s, k], of the two vocabularies' entries (`entry_vectors`), each in
            the space of its language; a row of zeros is an entry without a vector, and nobody's neighbour.
        target_words, source_words: [p, k], row by row translations of each other (`dictionary_vectors`).
        specials: int64 [q, 2], a row of the new vocabulary and one of the source's (`vocabulary.special_rows`).
        neighbours: so many source entries a row, or all where they are fewer. temperature: above 0.
        cells: cosines that are held at a time: the memory does not grow with V.

    Raises:
        ValueError: the widths differ, a vector is not finite, or a setting is out of range.
    """
    _check(target_vectors, source_vectors, target_words, source_words)
    if neighbours < 1 or not temperature > 0:
        raise ValueError(f"wechsel: expected neighbours and temperature above 0, found {neighbours} and {temperature}")
    shape = (len(target_vectors), len(source_vectors))
    ours, theirs = (np.flatnonzero(rows.any(axis=1)) for rows in (target_vectors, source_vectors))
    turned = source_vectors[theirs] @ _turn(source_words, target_words)
    nearest, cosines = _nearest(target_vectors[ours], turned, neighbours, cells)
    places = (np.repeat(ours, nearest.shape[1]), theirs[nearest].ravel())
    weights = csr_matrix((_softmax(cosines / temperature).ravel(), places), shape=shape)
    return overlay(one_hot(specials, shape, SPECIAL), normalised(weights, NEIGHBOURS))


def _forms(word: str) -> tuple[str, str, str]:
    return word, word.lower(), word.title()


def _turn(source_words: Rows, target_words: Rows) -> NDArray[np.float64]:
    """The orthogonal R [k, k] that brings `source_words @ R` nearest to `target_words`."""
    pairs = (torch.from_numpy(rows.astype(np.float64)) for rows in (source_words, target_words))
    R: NDArray[np.float64] = procrustes(*pairs).numpy().T
    return R


def _nearest(queries: Rows, keys: Rows, neighbours: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The rows of `keys` nearest to each of `queries`, in no order, and their cosines: both [n, min(neighbours, m)]."""
    count = min(neighbours, len(keys))
    nearest = np.zeros((len(queries), count), dtype=np.int64)
    best = np.zeros(nearest.shape)
    unit_keys = _unit(keys).T
    step = max(1, cells // max(len(keys), 1))
    for start in range(0, len(queries) if count else 0, step):
        rows = slice(start, start + step)
        cosines = _unit(queries[rows]) @ unit_keys
        # `x` and `##x` are equally near: the first is taken, and not the one that a machine's rounding favours.
        order = np.round(cosines, _DIGITS) - _TIE * np.arange(len(keys))
        nearest[rows] = np.argpartition(order, -count, axis=1)[:, -count:]
        best[rows] = np.take_along_axis(cosines, nearest[rows], axis=1)
    return nearest, best


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _unit(rows: Rows) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True))


def _check(target_vectors: Rows, source_vectors: Rows, target_words: Rows, source_words: Rows) -> None:
    given = (target_vectors, source_vectors, target_words, source_words)
    shapes = ", ".join(str(rows.shape) for rows in given)
    if {rows.ndim for rows in given} != {2} or len({rows.shape[1] for rows in given}) != 1:
        raise ValueError(f"wechsel: expected four arrays of vectors of one width, found {shapes}")
    if target_words.shape != source_words.shape or not len(source_words):
        raise ValueError(f"wechsel: expected as many target words as source words, and some, found {shapes}")
    if not all(np.isfinite(rows).all() for rows in given):
        raise ValueError("wechsel: expected finite vectors, found NaN or infinity")
