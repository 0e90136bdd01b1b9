"""The orthogonal Procrustes solution (Schönemann 1966), and the step that keeps a map near the orthogonal group."""

from __future__ import annotations

import torch
from torch import Tensor


def procrustes(X_d: Tensor, Y_d: Tensor, weights: Tensor | None = None) -> Tensor:
    """The orthogonal `W` [d, d] that minimises the weighted sum of `|W x_i - y_i|^2` over the dictionary's pairs.

    `W = U V^T`, from `SVD(Y_d^T X_d) = U S V^T` (METHOD section 3); reflections are allowed.

    Args:
        X_d, Y_d: [p, d], row i of one is a translation of row i of the other.
        weights: [p], not negative; a weight of 2 is the same as giving the pair twice.
    """
    # Float64: the SVD of a product that is nearly singular loses orthogonality in float32.
    left = Y_d.double() if weights is None else Y_d.double() * weights.double()[:, None]
    U, _, Vh = torch.linalg.svd(left.T @ X_d.double())
    W: Tensor = U @ Vh
    return W.to(X_d.dtype)


def nearest_orthogonal(W: Tensor) -> Tensor:
    """The orthogonal matrix [d, d] nearest to `W` [d, d]: the orthogonal factor of its polar decomposition."""
    return procrustes(torch.eye(len(W), dtype=W.dtype), W.T)


def orthogonalise(W: Tensor, beta: float) -> Tensor:
    """`(1 + beta) W - beta (W W^T) W`: one step towards the nearest orthogonal matrix (Conneau et al. 2018, eq. 7)."""
    return (1 + beta) * W - beta * (W @ W.T) @ W
