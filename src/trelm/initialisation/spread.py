"""The lengths of new rows, set to those of the source's rows of like frequency."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

BINS = 20  # of 1,500 entries each where the source has 30,000: enough for a distribution, fine enough for the curve


def rescale(
    words: NDArray[np.float32],
    frequency: NDArray[np.integer] | NDArray[np.floating],
    reference_norms: NDArray[np.floating],
    *,
    strength: float = 1.0,
    rows: NDArray[np.bool_] | None = None,
    bins: int = BINS,
) -> NDArray[np.float32]:
    """Rows with the source's distribution of lengths; the directions stay.

    A mean of rows is shorter than they are (FOCUS: 0.067 for 0.159), and an encoder's frequent entries have other
    lengths than its rare ones. So both vocabularies are parted by rank of frequency into equal parts, and within each
    the row at quantile q of the lengths takes the length at quantile q of the source's part:
    `norm ** (1 - strength) * norm_of_source ** strength`.

    Args:
        words: [V, d]. A row of zeros has no direction and stays.
        frequency: [V], of all entries, those that `rows` leaves out too; ties fall by row.
        reference_norms: [n], lengths of the source's rows by falling frequency, without those that were never trained
            (padding, reserved entries).
        strength: 0 changes nothing, 1 sets the lengths.
        rows: bool [V], the rows to change, by default all; give those that are no copies.
        bins: parts by frequency, fewer where the source has fewer rows.

    Returns:
        [V, d], new; rows that are not to change are exactly as before.

    Raises:
        ValueError: shapes do not fit, a length of the source is not positive, strength is outside 0 to 1, or bins
            below 1.
    """
    changing = np.ones(len(words), dtype=np.bool_) if rows is None else rows
    _check(words, frequency, reference_norms, changing, strength, bins)
    norms = np.linalg.norm(words.astype(np.float64), axis=1)
    parts = min(bins, len(reference_norms))
    place = np.empty(len(words), dtype=np.int64)
    place[np.argsort(-np.asarray(frequency, dtype=np.float64), kind="stable")] = _parts(len(words), parts)
    of_reference = _parts(len(reference_norms), parts)
    factors = np.ones(len(words))
    for part in range(parts):
        mine = np.flatnonzero((place == part) & changing & (norms > 0))
        wanted = _at_the_same_quantile(norms[mine], reference_norms[of_reference == part])
        factors[mine] = (wanted / norms[mine]) ** strength
    return (words * factors[:, None]).astype(np.float32)


def _parts(count: int, parts: int) -> NDArray[np.int64]:
    """For ranks 0 to count - 1 the part that each falls in: equal ones, in order."""
    return np.arange(count, dtype=np.int64) * parts // max(count, 1)


def _at_the_same_quantile(norms: NDArray[np.float64], reference: NDArray[np.floating]) -> NDArray[np.float64]:
    """For each norm the reference's quantile that it is of its own; of as many as the reference has, the very same."""
    if not len(norms):
        return norms
    quantiles = (rankdata(norms) - 0.5) / len(norms)
    return np.asarray(np.quantile(reference.astype(np.float64), quantiles, method="hazen"))


def _check(
    words: NDArray[np.float32],
    frequency: NDArray[np.integer] | NDArray[np.floating],
    reference_norms: NDArray[np.floating],
    rows: NDArray[np.bool_],
    strength: float,
    bins: int,
) -> None:
    if words.ndim != 2 or frequency.shape != words.shape[:1] or rows.shape != words.shape[:1]:
        shapes = f"words {words.shape}, frequency {frequency.shape}, rows {rows.shape}"
        raise ValueError(f"rescale: expected [V, d], [V] and [V], found {shapes}")
    if not len(reference_norms) or not (np.isfinite(reference_norms).all() and (reference_norms > 0).all()):
        raise ValueError("rescale: expected positive norms of source rows, found none, or one that is not")
    if not 0 <= strength <= 1 or bins < 1:
        raise ValueError(f"rescale: expected a strength from 0 to 1 and 1 or more bins, found {strength} and {bins}")
