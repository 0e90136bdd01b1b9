"""Ridge regression from the subword vectors to the encoder's table: a linear map that need not be orthogonal."""

from __future__ import annotations

import torch
from torch import Tensor


def ridge(X_d: Tensor, Y_d: Tensor, weights: Tensor | None = None, *, penalty: float = 0.1) -> Tensor:
    """The `W` [d', d] that minimises the weighted sum of `|W x_i - y_i|^2` plus `l |W|^2`.

    `W^T = (X^T D X + l I)^-1 X^T D Y`, the closed form of Hoerl & Kennard 1970, with D the weights and l = `penalty`
    times the mean of the diagonal of `X^T D X`, so that neither the number nor the length of the rows matters. No
    constant is fitted: give centred rows. The images are shorter than the targets, the more so the less of them the
    map explains.

    Args:
        X_d: [p, d] and Y_d: [p, d'], row i of one is a translation of row i of the other. The widths may differ.
        weights: [p], not negative; a weight of 2 is the same as giving the pair twice.
        penalty: above 0.

    Raises:
        ValueError: the shapes do not fit together, or the penalty is not above 0.
    """
    _check(X_d, Y_d, weights, penalty)
    X = X_d.double()
    weighted = X if weights is None else X * weights.double()[:, None]
    gram = weighted.T @ X
    strength = penalty * gram.diagonal().mean()
    # Rows of zeros alone have no map but zero; without this the system would be singular.
    regular = gram + strength.clamp(min=torch.finfo(torch.float64).tiny) * torch.eye(len(gram), dtype=torch.float64)
    solution: Tensor = torch.linalg.solve(regular, weighted.T @ Y_d.double())
    return solution.T.to(X_d.dtype).contiguous()


def _check(X_d: Tensor, Y_d: Tensor, weights: Tensor | None, penalty: float) -> None:
    if (
        X_d.ndim != 2
        or Y_d.ndim != 2
        or len(X_d) != len(Y_d)
        or (weights is not None and weights.shape != X_d.shape[:1])
    ):
        found = f"{tuple(X_d.shape)}, {tuple(Y_d.shape)} and {None if weights is None else tuple(weights.shape)}"
        raise ValueError(f"ridge: expected pairs [p, d] and [p, d'] and weights [p], found {found}")
    if not penalty > 0:
        raise ValueError(f"ridge: expected a penalty above 0, found {penalty}")
