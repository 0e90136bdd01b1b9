"""Sparsemax (Martins & Astudillo 2016): the point of the simplex nearest to a vector of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sparsemax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """`argmin |p - z|^2` over all `p >= 0` that sum to 1, for each row z: `p_j = max(z_j - tau(z), 0)` (their eq. 2-5).

    Args:
        scores: [n], or [m, n] for m rows at once; not empty, finite.

    Returns:
        Float64 of the same shape.

    Raises:
        ValueError: there is no score in a row, or one that is not finite.
    """
    if scores.ndim not in (1, 2) or scores.shape[-1] == 0 or not np.isfinite(scores).all():
        what = "NaN or infinity" if scores.ndim in (1, 2) and scores.size else f"shape {scores.shape}"
        raise ValueError(f"sparsemax: expected finite scores [n] or [m, n] with n of 1 or more, found {what}")
    z = np.atleast_2d(scores).astype(np.float64)
    z -= z.max(axis=1, keepdims=True)  # changes tau alone, and keeps the sums below small
    weights = np.maximum(z - _threshold(z)[:, None], 0.0)
    return np.asarray(weights.reshape(scores.shape))


def _threshold(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """tau(z) = (sum of the k(z) greatest - 1) / k(z), k(z) = max {k : 1 + k z_(k) > sum of the k greatest}; [m]."""
    falling = -np.sort(-z, axis=1)
    sums = np.cumsum(falling, axis=1)
    k = np.arange(1, z.shape[1] + 1)
    # The condition holds for the first k(z) places and for none after them.
    support = (1 + k * falling > sums).sum(axis=1)
    greatest = np.take_along_axis(sums, support[:, None] - 1, axis=1)[:, 0]
    return np.asarray((greatest - 1) / support)
