"""The kinds of linear map that pairs can be fitted with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from trelm.alignment.procrustes import procrustes
from trelm.alignment.ridge import ridge

MapKind = Literal["orthogonal", "ridge"]

FITS: dict[MapKind, Callable[..., Tensor]] = {"orthogonal": procrustes, "ridge": ridge}


def keeps_lengths(kind: MapKind, width: int, into: int) -> bool:
    """Whether images of rows of this `width`, in a space of width `into`, are as long as the rows."""
    return kind == "orthogonal" and into >= width
