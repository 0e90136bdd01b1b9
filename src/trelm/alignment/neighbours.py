"""Mapping through neighbours: a new row as a sparse convex combination of the encoder's own rows."""

from __future__ import annotations

import torch
from torch import Tensor

from trelm.alignment.csls import csls_neighbours


def neighbour_weights(
    images: Tensor,
    Y: Tensor,
    *,
    k: int = 10,
    temperature: float = 0.1,
    csls_k: int = 10,
    chunk: int = 1024,
) -> tuple[Tensor, Tensor]:
    """The `k` rows of `Y` nearest to each image by CSLS, and the weights of a convex combination of them.

    Images far from the table's own rows are pulled back to where the encoder knows its way, and the weights serve the
    output table and the bias as well. The combination is shorter than the rows: rescale it.

    Args:
        images: [n, d], mapped rows in the space of `Y` [m, d]; centre both by the same vector.
        k: at most m are taken.
        temperature: above 0; the weights are `softmax(CSLS / temperature)`: the smaller, the fewer neighbours count.
        csls_k: neighbours that hubness is taken over. chunk: images at a time.

    Returns:
        Indices into `Y`, int64 [n, min(k, m)], best first, and float64 weights of the same shape: rows sum to 1.

    Raises:
        ValueError: k or the temperature is not above 0.
    """
    if k < 1 or not temperature > 0:
        raise ValueError(f"neighbour_weights: expected k and temperature above 0, found {k} and {temperature}")
    scores, indices = csls_neighbours(images, Y, k=csls_k, top=min(k, len(Y)), chunk=chunk)
    return indices, torch.softmax(scores.double() / temperature, dim=1)


def combine(indices: Tensor, weights: Tensor, Y: Tensor, chunk: int = 4096) -> Tensor:
    """`sum_j weights[i, j] Y[indices[i, j]]`, [n, d] of the type of `Y` [m, d]."""
    parts = zip(torch.split(indices, chunk), torch.split(weights.to(Y.dtype), chunk))
    return torch.cat([torch.einsum("nk,nkd->nd", part, Y[rows]) for rows, part in parts])
