"""Whitening, an orthogonal map, re-weighting and the way back (Artetxe et al. 2018, steps 1 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-9  # of the greatest variance: directions below it have none, and would be blown up


def whitening(rows: Tensor, weights: Tensor | None = None, *, penalty: float = 0.0) -> tuple[Tensor, Tensor]:
    """The symmetric matrix A [d, d] for which `rows @ A` has the weighted second moment I, and its inverse.

    `A = C^(-1/2)`, C the weighted mean of `x x^T` (give centred rows for a covariance) plus `penalty` times the mean of
    its diagonal times I. A direction without variance is left out: `rows @ A` is zero there.

    Args:
        rows: [p, d].
        weights: [p], not negative, by default all 1.
        penalty: 0 or more; above it the moment is I only nearly, and small directions are blown up less.

    Returns:
        A and its (pseudo-)inverse, float64.

    Raises:
        ValueError: the penalty is below 0.
    """
    if not penalty >= 0:
        raise ValueError(f"whitening: expected a penalty of 0 or more, found {penalty}")
    exact = rows.double()
    given = torch.ones(len(rows), dtype=torch.float64) if weights is None else weights.double()
    moment = (exact * given[:, None]).T @ exact / given.sum()
    variances, directions = torch.linalg.eigh(moment)
    variances = variances.clamp(min=0) + penalty * variances.mean()
    kept = variances > SMALLEST * variances.max()
    deviations = torch.where(kept, variances, torch.ones_like(variances)).sqrt()
    A, back = ((directions * (scale * kept)) @ directions.T for scale in (1 / deviations, deviations))
    return A, back


def whitened_map(
    X_d: Tensor, Y_d: Tensor, weights: Tensor | None = None, *, reweighting: float = 0.5, penalty: float = 0.1
) -> Tensor:
    """The linear `W` [d', d] of Artetxe et al. 2018, so that `X @ W.T` lies in the space of `Y`.

    Both sides are whitened; `SVD(A_x X^T D Y A_y) = U S V^T` turns one into the other; direction i is multiplied by
    `S_i ** reweighting`, where S_i is the correlation of the two sides along it; then the whitening of `Y` is undone.
    With `reweighting` 0 and no penalty it is Procrustes between whitened spaces, with 1 the least-squares map.

    Args:
        X_d: [p, d], Y_d: [p, d'], centred, row by row translations. The widths may differ.
        weights: [p], not negative, by default all 1.

    Raises:
        ValueError: the penalty is below 0.
    """
    given = torch.ones(len(X_d), dtype=torch.float64) if weights is None else weights.double()
    A_x, _ = whitening(X_d, given, penalty=penalty)
    A_y, back = whitening(Y_d, given, penalty=penalty)
    cross = A_x @ ((X_d.double() * given[:, None]).T @ Y_d.double() / given.sum()) @ A_y
    U, S, Vh = torch.linalg.svd(cross, full_matrices=False)
    W_transposed: Tensor = A_x @ (U * S**reweighting) @ Vh @ back
    return W_transposed.T.to(X_d.dtype).contiguous()
