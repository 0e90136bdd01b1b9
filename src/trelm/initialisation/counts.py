"""Rows from word links of parallel text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trelm.initialisation.mixture import LINKED, Mixture, from_pairs


def counts(
    pairs: NDArray[np.int64], link_counts: NDArray[np.floating], shape: tuple[int, int], *, least: float = 0.0
) -> Mixture:
    """RAMEN (Tran 2020): sum_e p(e | row) E_s[e], p(e | row) = c(row, e) / sum_e c(row, e).

    Args:
        pairs: int64 [r, 2], row of the new vocabulary and row of the source's; a pair given twice adds up.
        link_counts: [r], how often the two are linked, none negative.
        shape: (V, V_s).
        least: rows with fewer links in all stay empty.

    Raises:
        ValueError: a pair lies outside the shape, or a count is negative or not finite.
    """
    mixture = from_pairs(pairs, link_counts, shape, LINKED)
    if not least > 0:
        return mixture
    totals = np.bincount(pairs[:, 0], weights=link_counts, minlength=shape[0])
    kept = (totals >= least)[pairs[:, 0]]
    return from_pairs(pairs[kept], link_counts[kept], shape, LINKED)
