"""Kernel ridge regression from aligned neighbours: what linear maps miss, taken from the entries that are near.

The spaces are far from isometric, but neighbours in one have rows that are near in the other. An entry's row is a sum
over all seeds, by how near they are to it: a linear map where the kernel is flat, the nearest seeds' mean where it is
steep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trelm.alignment.csls import unit_rows

CHUNK = 2048
MOST_SEEDS = 20_000  # the system's matrix has the square of them: 1.6 GB in float32


def kernel(a: Tensor, b: Tensor, sharpness: float) -> Tensor:
    """`exp(sharpness (cos(a_i, b_j) - 1))` [n, m]: the Gaussian kernel on the sphere, 1 where directions agree."""
    return (sharpness * (unit_rows(a) @ unit_rows(b).T - 1)).exp()


def kernel_regression(
    X: Tensor,
    X_d: Tensor,
    Y_d: Tensor,
    weights: Tensor,
    *,
    sharpness: float = 2.0,
    penalty: float = 3.0,
    most_seeds: int = MOST_SEEDS,
    chunk: int = CHUNK,
) -> Tensor:
    """Images [n, d'] of `X`: `k(x, X_d) (K + P)^-1 Y_d` (Saunders et al. 1998), P diagonal: `penalty / weights`.

    A pair with twice the weight is the same as the pair given twice. `Y_d` may be rows of any kind: of the word table,
    of an output table, or the output bias as one column, which then fit together. Give rows less their mean: far from
    all seeds the image goes to zero, and it is shorter than the targets wherever the seeds do not agree.

    Args:
        X: [n, d], X_d: [p, d]; lengths do not matter. Y_d: [p, d'].
        weights: [p], above 0: of the seeds; log(1 + count) for the links' mean rows.
        sharpness: of the kernel, above 0. penalty: above 0.
        most_seeds: with more pairs, those of the greatest weight are kept (the first of equals); caller counts them.
        chunk: rows of `X` at a time. Memory: 4 p^2 bytes twice, and chunk * p floats.

    Raises:
        ValueError: shapes do not fit together, or a setting or a weight is not above 0.
    """
    _check(X, X_d, Y_d, weights, sharpness, penalty)
    kept = weights.sort(descending=True, stable=True).indices[:most_seeds]
    seeds = unit_rows(X_d[kept])
    system = kernel(seeds, seeds, sharpness)
    system.diagonal().add_(penalty / weights[kept].to(system.dtype))
    coefficients = torch.cholesky_solve(Y_d[kept], torch.linalg.cholesky(system))
    return torch.cat([kernel(rows, seeds, sharpness) @ coefficients for rows in torch.split(X, chunk)])


def _check(X: Tensor, X_d: Tensor, Y_d: Tensor, weights: Tensor, sharpness: float, penalty: float) -> None:
    shapes = ", ".join(str(tuple(table.shape)) for table in (X, X_d, Y_d, weights))
    fits = X.ndim == X_d.ndim == Y_d.ndim == 2 and X.shape[1] == X_d.shape[1]
    if not fits or not len(X_d) == len(Y_d) == len(weights) or weights.ndim != 1 or not len(X_d):
        raise ValueError(f"kernel_regression: expected [n, d], [p, d], [p, d'] and [p] with p above 0, found {shapes}")
    if not (sharpness > 0 and penalty > 0 and bool((weights > 0).all())):
        raise ValueError(
            f"kernel_regression: expected sharpness, penalty and weights above 0, "
            f"found {sharpness}, {penalty} and {float(weights.min())}"
        )
