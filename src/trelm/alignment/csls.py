"""Cross-domain similarity local scaling (Conneau et al. 2018, section 2.3): exact, in chunks, zero rows allowed.

    CSLS(x, y) = 2 cos(x, y) - r_Y(x) - r_X(y)

`r_Y(x)` is the mean cosine of `x` with its `k` nearest rows of `Y`: hubs, near to everything, are held down.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1024
BLOCK = 64  # columns whose greatest is looked at first where the greatest of many are wanted


def unit_rows(rows: Tensor) -> Tensor:
    """`rows` [n, d] with rows of length 1; zero rows stay zero, so that their cosine with anything is 0."""
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def mean_similarity(a: Tensor, b: Tensor, k: int = 10, chunk: int = CHUNK) -> Tensor:
    """`r_B(a)` [n]: the mean cosine of each row of `a` [n, d] with its `k` nearest rows of `b` [m, d].

    Where `b` has fewer than `k` rows, the mean is over all of them.
    """
    a, b_transposed = unit_rows(a), unit_rows(b).T
    return torch.cat([_top_mean(cosines, k) for cosines in _products(a, b_transposed, chunk)])


def csls_neighbours(
    queries: Tensor,
    targets: Tensor,
    *,
    k: int = 10,
    top: int = 1,
    target_hubness: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The `top` targets of the highest CSLS for each query, best first.

    Args:
        queries: [q, d]; targets: [m, d]; of any lengths.
        k: neighbours that the hubness is taken over.
        top: neighbours returned, at most m.
        target_hubness: [m], `mean_similarity(targets, all_queries)` where `queries` are only a part of them;
            by default it is taken over `queries`.
        chunk: queries at a time; memory is chunk * m floats.

    Returns:
        Scores [q, top] and indices into `targets` [q, top].
    """
    if target_hubness is None:
        target_hubness = mean_similarity(targets, queries, k, chunk)
    targets_transposed = unit_rows(targets).T
    scores, indices = [], []
    for cosines in _products(unit_rows(queries), targets_transposed, chunk):
        hubness = _top_mean(cosines, k)
        best = cosines.mul_(2).sub_(hubness[:, None]).sub_(target_hubness).topk(top, dim=1)
        scores.append(best.values)
        indices.append(best.indices)
    return torch.cat(scores), torch.cat(indices)


def mutual_neighbours(a: Tensor, b: Tensor, *, k: int = 10, chunk: int = CHUNK) -> Tensor:
    """The pairs (row of `a` [n, d], row of `b` [m, d]) that are each other's nearest under CSLS: int64 [p, 2]."""
    hubness_a, hubness_b = mean_similarity(a, b, k, chunk), mean_similarity(b, a, k, chunk)
    forward = []
    backward_score = torch.full((len(b),), -torch.inf)
    backward = torch.zeros(len(b), dtype=torch.int64)
    for start, cosines in zip(range(0, len(a), chunk), _products(unit_rows(a), unit_rows(b).T, chunk)):
        # One product serves both directions; r(a) matters to the rows of b, r(b) to the rows of a.
        scores = cosines.mul_(2).sub_(hubness_a[start : start + chunk, None]).sub_(hubness_b)
        forward.append(scores.argmax(dim=1))
        best = scores.max(dim=0)
        better = best.values > backward_score
        backward_score = torch.where(better, best.values, backward_score)
        backward = torch.where(better, best.indices + start, backward)
    nearest = torch.cat(forward)
    rows_of_a = torch.arange(len(a))
    mutual = backward[nearest] == rows_of_a
    return torch.stack([rows_of_a[mutual], nearest[mutual]], dim=1)


def _products(rows: Tensor, columns: Tensor, chunk: int) -> Iterator[Tensor]:
    """`rows @ columns`, `chunk` rows at a time, each product in the memory of the one before.

    Fresh memory for a table that is read two or three times costs as much as half of the product.
    """
    table = rows.new_empty(min(chunk, len(rows)), columns.shape[1])
    for part in torch.split(rows, chunk):
        yield torch.mm(part, columns, out=table[: len(part)])


def _top_mean(cosines: Tensor, k: int) -> Tensor:
    """The mean of the `k` greatest of each row."""
    return _greatest(cosines, min(k, cosines.shape[1])).mean(dim=1)


def _greatest(values: Tensor, k: int) -> Tensor:
    """The `k` greatest of each row [n, m], greatest first: `topk`'s values, in less than half of its time.

    No value of a block of columns can be among them where `k` other blocks have a value as great as its greatest.
    """
    blocks = values.shape[1] // BLOCK
    if blocks <= 8 * k:
        return values.topk(k, dim=1).values
    whole = values[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    best = whole.amax(dim=2).topk(k, dim=1, sorted=False).indices
    candidates = whole.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    return torch.cat([candidates, values[:, blocks * BLOCK :]], dim=1).topk(k, dim=1).values
