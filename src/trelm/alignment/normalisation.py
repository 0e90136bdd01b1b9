"""Normalised copies of the tables, between which a map is learned, and the way back to the table as it came."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from trelm.alignment.csls import unit_rows
from trelm.alignment.whitening import whitening

Normalisation = Literal["none", "unit", "centre-unit", "iterative", "whiten"]

ROUNDS = 5
CONVERGED = 1e-4  # mean difference of the rows' lengths from 1


@dataclass(frozen=True)
class Normalised:
    """A table's normalised rows [n, d], and the way back.

    Attributes:
        centre: [d], where images go back to: the table's mean, or zero where no mean was taken off.
        scale: mean length that the rows had before they were set to 1.
        recolouring: [d, d], the inverse of the whitening, where there was one.
    """

    rows: Tensor
    centre: Tensor
    scale: float
    recolouring: Tensor | None = None

    def back(self, images: Tensor) -> Tensor:
        """Images [n', d] among the normalised rows, at the place, the scale and the shape of the table as it came."""
        scaled = images * self.scale
        return (scaled if self.recolouring is None else scaled @ self.recolouring) + self.centre


def normalise(table: Tensor, how: Normalisation) -> Normalised:
    """Normalised rows of `table` [n, d], float32.

    Args:
        how: "none": as they are. "unit": of length 1. "centre-unit": less their mean and of length 1. "iterative":
            length 1 and mean 0 in turns (`iteratively`; both hold in the end, or nearly). "whiten": less their mean,
            with the identity as covariance (ZCA, so that no direction is turned) and then of length 1.
    """
    if how == "none":
        return Normalised(table, torch.zeros(table.shape[1]), 1.0)
    centre = torch.zeros(table.shape[1]) if how == "unit" else table.mean(dim=0)
    centred = table - centre
    if how == "whiten":
        A, back = whitening(centred)
        white = centred @ A.to(table.dtype)
        return Normalised(unit_rows(white), centre, _mean_length(white), back.to(table.dtype))
    rows = iteratively(table) if how == "iterative" else unit_rows(centred)
    return Normalised(rows, centre, _mean_length(centred))


def iteratively(table: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Rows of length 1, then less their mean, and again, until both hold or for `rounds` rounds (Zhang et al. 2019).

    The mean is zero at the end; the lengths are 1 but for what the last centring changed.
    """
    rows = table
    for _ in range(rounds):
        rows = unit_rows(rows)
        rows = rows - rows.mean(dim=0)
        if float((rows.norm(dim=1) - 1).abs().mean()) < CONVERGED:
            break
    return rows


def at_length_of(images: Tensor, rows: Tensor) -> Tensor:
    """`images` [n, d] times what gives them the mean length of `rows` [m, d]: maps but the orthogonal ones shrink."""
    length = _mean_length(images)
    return images * (_mean_length(rows) / length) if length > 0 else images


def _mean_length(rows: Tensor) -> float:
    return float(rows.norm(dim=1).mean())
