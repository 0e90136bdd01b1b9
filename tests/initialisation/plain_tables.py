"""The word table of METHOD section 4 written out step by step: what mixtures must give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

SPECIAL, LINKED, SHARED, MAPPED, RANDOM = range(5)
NO_PAIRS: NDArray[np.int64] = np.zeros((0, 2), dtype=np.int64)
NO_COUNTS: NDArray[np.float32] = np.zeros(0, dtype=np.float32)


def plain_table(
    mapped: NDArray[np.float32],
    has_vector: NDArray[np.bool_],
    source_table: NDArray[np.float32],
    *,
    shared: NDArray[np.int64],
    specials: NDArray[np.int64],
    copy_shared: bool,
    seed: int,
    links: NDArray[np.int64] = NO_PAIRS,
    link_counts: NDArray[np.float32] = NO_COUNTS,
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The word table of METHOD section 4. A row is, in this order of precedence:

    special: the source's row of the same role; linked: the mean of the source's rows that word links join it to,
    weighted by their counts (as RAMEN does, Tran 2020); shared: the source's row of the entry spelled alike (if
    `copy_shared`); mapped: `X W^T`; random: normal with each dimension's mean and deviation in the source table.

    Args:
        mapped: [V, d]; rows where `has_vector` (bool [V]) is False are not looked at.
        source_table: [V_s, d]. shared: [p, 2] and specials: [q, 2], pairs of a joint row and a source row.
        links: [r, 2] pairs likewise and link_counts: [r], for the rows that are to be linked; none by default.
    """
    rows = _random_rows(len(mapped), source_table, seed)
    provenance = np.full(len(mapped), RANDOM, dtype=np.int8)
    rows[has_vector], provenance[has_vector] = mapped[has_vector], MAPPED
    if copy_shared:
        rows[shared[:, 0]], provenance[shared[:, 0]] = source_table[shared[:, 1]], SHARED
    linked = np.unique(links[:, 0])
    rows[linked], provenance[linked] = linked_rows(links, link_counts, source_table), LINKED
    rows[specials[:, 0]], provenance[specials[:, 0]] = source_table[specials[:, 1]], SPECIAL
    return rows, provenance


def linked_rows(
    links: NDArray[np.int64], counts: NDArray[np.float32], source_table: NDArray[np.float32]
) -> NDArray[np.float32]:
    """For each joint row with links, in rising order: sum_e p(e | row) E_s[e], p by the counts. Float32 [rows, d]."""
    rows, place = np.unique(links[:, 0], return_inverse=True)
    weights = csr_matrix((counts.astype(np.float64), (place, links[:, 1])), shape=(len(rows), len(source_table)))
    totals = np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    mixed: NDArray[np.float64] = weights @ source_table.astype(np.float64)
    means: NDArray[np.float32] = (mixed / np.maximum(totals, 1e-12)).astype(np.float32)
    return means


def _random_rows(count: int, source_table: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """[count, d], each dimension with the mean and deviation that it has in the source table."""
    noise = np.random.default_rng(seed).standard_normal((count, source_table.shape[1]), dtype=np.float32)
    drawn = source_table.mean(axis=0) + noise * source_table.std(axis=0)
    return np.asarray(drawn, dtype=np.float32)
