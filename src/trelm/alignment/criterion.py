"""How good a map is, judged without labels; and its refinement by its own best translations (METHOD section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trelm.alignment.csls import csls_neighbours, mutual_neighbours, unit_rows
from trelm.alignment.procrustes import procrustes

Fit = Callable[[Tensor, Tensor], Tensor]  # a map [d', d] from pairs [p, d] and [p, d']

NULL_DRAWS = 3
NULL_MARGIN = 0.02


def mean_cosine_criterion(mapped_X: Tensor, Y: Tensor, *, entries: int, k: int = 10) -> float:
    """The mean cosine of the most frequent rows' images with their CSLS translations (Conneau et al. 2018).

    Args:
        mapped_X: [n, d], `X @ W.T`, sorted by falling frequency.
        Y: [m, d], sorted by falling frequency.
        entries: so many rows of each, from the start, are translated and translated into; all where there are fewer.
        k: neighbours of CSLS.
    """
    images, targets = mapped_X[:entries], Y[:entries]
    _, nearest = csls_neighbours(images, targets, k=k)
    return float((unit_rows(images) * unit_rows(targets)[nearest[:, 0]]).sum(dim=1).mean())


def random_orthogonal(d: int, generator: torch.Generator, into: int | None = None) -> Tensor:
    """A matrix [into, d], uniform over the (semi-)orthogonal ones; `into` is `d` by default."""
    rows = d if into is None else into
    Q, R = torch.linalg.qr(torch.randn(max(rows, d), min(rows, d), generator=generator, dtype=torch.float64))
    uniform: Tensor = Q * R.diagonal().sign()  # without the signs, QR prefers some rotations
    return (uniform if rows >= d else uniform.T.contiguous()).float()


def refine(
    X: Tensor,
    Y: Tensor,
    W: Tensor,
    *,
    rounds: int,
    entries: int,
    k: int = 10,
    criterion_entries: int | None = None,
    fit: Fit = procrustes,
    on_round: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Rounds of: a dictionary of mutual CSLS neighbours under `W`, then a map fitted to it; the best `W` is kept.

    Args:
        X, Y: [n, d], [m, d'], each sorted by falling frequency.
        W: [d', d], where to start.
        entries: so many most frequent rows of each side may enter the dictionary.
        criterion_entries: rows that the criterion is taken over; `entries` by default.
        fit: how a dictionary becomes a map.
        on_round: called with each entry of the history.

    Returns:
        The `W` of the highest criterion, the first one included, and the history: one
        `{"round", "criterion", "dictionary"}` a round, round 0 being `W` as it came (dictionary 0).
        It ends early where no pair is mutual.
    """
    scored = criterion_entries or entries
    best, history = W, [_round(0, X, Y, W, 0, scored, k)]
    best_criterion = history[0]["criterion"]
    for number in range(1, rounds + 1):
        pairs = mutual_neighbours(X[:entries] @ W.T, Y[:entries], k=k)
        if len(pairs) == 0:
            break
        W = fit(X[pairs[:, 0]], Y[pairs[:, 1]])
        history.append(_round(number, X, Y, W, len(pairs), scored, k))
        if on_round is not None:
            on_round(history[-1])
        if history[-1]["criterion"] > best_criterion:
            best, best_criterion = W, history[-1]["criterion"]
    return best, history


def null_criterion(
    X: Tensor,
    Y: Tensor,
    *,
    rounds: int,
    entries: int,
    k: int,
    criterion_entries: int,
    seed: int,
    fit: Fit = procrustes,
) -> float:
    """The best criterion that random rotations reach by the same refinement.

    Refinement fits its own mistakes: on real tables of width 384 it takes a random rotation from 0.18 to 0.31, and a
    supervised map from 0.31 to 0.34. A criterion says something only beside this one (`beats_null`).
    """
    generator = torch.Generator().manual_seed(seed)
    reached = []
    for _ in range(NULL_DRAWS):
        W = random_orthogonal(X.shape[1], generator, Y.shape[1])
        _, history = refine(X, Y, W, rounds=rounds, entries=entries, k=k, criterion_entries=criterion_entries, fit=fit)
        reached.append(best_of(history))
    return max(reached)


def beats_null(criterion: float, null: float) -> bool:
    """Whether a map is better than random ones by more than chance: by more than `NULL_MARGIN`."""
    return criterion > null + NULL_MARGIN


def best_of(history: list[dict[str, Any]]) -> float:
    """The highest criterion of a history."""
    return max(float(entry["criterion"]) for entry in history)


def _round(number: int, X: Tensor, Y: Tensor, W: Tensor, pairs: int, entries: int, k: int) -> dict[str, Any]:
    criterion = mean_cosine_criterion(X[:entries] @ W.T, Y, entries=entries, k=k)
    return {"round": number, "criterion": criterion, "dictionary": pairs}
