"""Rows that are drawn around the source table, for entries of which nothing is known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# What transformers multiplies the covariance by where it draws the rows of added tokens
# (`_init_added_embeddings_weights_with_mean`, after Hewitt 2021): all but the mean itself.
TRANSFORMERS_SCALE = 1e-9


def random_rows(count: int, table: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Normal rows, each dimension with the mean and deviation that it has in the table; the same for the same seed.

    Args:
        table: [V_s, d], finite.

    Returns:
        [count, d].

    Raises:
        ValueError: the table has no row, or one that is not finite.
    """
    _check(table, "random_rows")
    noise = np.random.default_rng(seed).standard_normal((count, table.shape[1]), dtype=np.float32)
    drawn = table.mean(axis=0) + noise * table.std(axis=0)
    return np.asarray(drawn, dtype=np.float32)


def multivariate_rows(count: int, table: NDArray[np.float32], seed: int, *, scale: float = 1.0) -> NDArray[np.float32]:
    """Normal rows with the mean and the full covariance of the table's rows; the same for the same seed.

    Transformers draws by a Cholesky factor and, where the covariance is not positive definite (fewer rows than
    dimensions, a constant dimension), gives every row the mean without a word. The symmetric root used here exists for
    every covariance: nothing varies where the table does not, and there is no second way.

    Args:
        table: [V_s, d], finite.
        scale: of the covariance; `TRANSFORMERS_SCALE` is what `resize_token_embeddings` does.

    Returns:
        [count, d].

    Raises:
        ValueError: the table has no row or one that is not finite, or the scale is negative.
    """
    _check(table, "multivariate_rows")
    if not scale >= 0:
        raise ValueError(f"multivariate_rows: expected a scale of 0 or more, found {scale}")
    mean = table.mean(axis=0, dtype=np.float64)
    centred = table - mean
    noise = np.random.default_rng(seed).standard_normal((count, table.shape[1]))
    root = _symmetric_root(centred.T @ centred * (scale / len(table)))
    return np.asarray(mean + noise @ root, dtype=np.float32)


def _symmetric_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The one symmetric positive semidefinite S with S S = covariance: it depends on no sign of an eigenvector."""
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root


def _check(table: NDArray[np.float32], who: str) -> None:
    if table.ndim != 2 or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"{who}: expected a finite table [V_s, d] with rows, found {_described(table)}")


def _described(table: NDArray[np.float32]) -> str:
    return f"shape {table.shape}" if table.ndim != 2 or not len(table) else "NaN or infinity"
