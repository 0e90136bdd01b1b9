"""Files mapped into memory, and how to let go of what reading them has mapped."""

from __future__ import annotations

import mmap
from typing import Any

from numpy.typing import NDArray

_SHARED = ("r", "r+", "w+")  # what is written to these is the file's; in a private copy it would be lost


def let_go(array: NDArray[Any]) -> None:
    """Unmap the pages of a mapped file that were touched: they count as this process's memory, up to the whole file.

    They are mapped again when they are read again. Nothing happens to arrays in memory.
    """
    mapped = getattr(array, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and getattr(array, "mode", None) in _SHARED and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
