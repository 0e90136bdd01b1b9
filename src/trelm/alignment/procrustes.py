"""The orthogonal Procrustes solution (Schönemann 1966), and the step that keeps a map near the orthogonal group.

Where the tables differ in width, "orthogonal" is semi-orthogonal: `W^T W = I` for a map into a wider space, which keeps
all lengths and angles, and `W W^T = I` for one into a narrower space, which drops directions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def procrustes(X_d: Tensor, Y_d: Tensor, weights: Tensor | None = None) -> Tensor:
    """The orthogonal `W` [d', d] that minimises the weighted sum of `|W x_i - y_i|^2` over the dictionary's pairs.

    `W = U V^T`, from `SVD(Y_d^T X_d) = U S V^T` (METHOD section 3); reflections are allowed. Into a narrower space
    (d' < d) the error has no closed form; this `W` has the greatest weighted sum of `<W x_i, y_i>`, which for
    d' >= d is the same.

    Args:
        X_d: [p, d], Y_d: [p, d'], row i of one is a translation of row i of the other.
        weights: [p], not negative; a weight of 2 is the same as giving the pair twice.
    """
    # Float64: the SVD of a product that is nearly singular loses orthogonality in float32.
    left = Y_d.double() if weights is None else Y_d.double() * weights.double()[:, None]
    U, _, Vh = torch.linalg.svd(left.T @ X_d.double(), full_matrices=False)
    W: Tensor = U @ Vh
    return W.to(X_d.dtype)


def nearest_orthogonal(W: Tensor) -> Tensor:
    """The (semi-)orthogonal matrix [d', d] nearest to `W` [d', d]: the orthogonal factor of its polar decomposition."""
    return procrustes(torch.eye(W.shape[1], dtype=W.dtype), W.T)


def orthogonalise(W: Tensor, beta: float) -> Tensor:
    """`(1 + beta) W - beta (W W^T) W`: one step towards the nearest orthogonal matrix (Conneau et al. 2018, eq. 7).

    It moves the singular values of `W` [d', d] towards 1 and leaves the singular vectors, whatever the shape.
    """
    return (1 + beta) * W - beta * (W @ W.T) @ W
