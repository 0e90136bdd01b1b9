"""Which tokens of another tokenizer each position is linked to: through the characters that both tokenizers read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_LINK = -1
Offsets = NDArray[np.int64]


def overlapping(own: Offsets, other: Offsets) -> tuple[Offsets, Offsets]:
    """For each token the first of another tokenization's that shares a character with it, and the one after the last.

    Args:
        own, other: (n, 2) and (m, 2), the first character and the one after the last of each token of one text, in its
            order. One of the other's without a character counts where it stands between two of a token.

    Returns:
        start, end (n,) each; `start == end` where no token shares a character with it.
    """
    start = np.searchsorted(other[:, 1], own[:, 0], side="right")
    end = np.searchsorted(other[:, 0], own[:, 1], side="left")
    return start, np.where(own[:, 0] < own[:, 1], np.maximum(start, end), start)


def linked_spans(links: NDArray[np.int32], own: Offsets, other: Offsets) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each output position the tokens of another tokenizer that cover the input position that it is linked to.

    Args:
        links: (T,), the input position of each output position, or -1. own, other: characters of the input's tokens, by
            the tokenizer that was linked and by the other one; as in `overlapping`.

    Returns:
        start, end (T,) each; -1 where there is no link, or no such token.
    """
    start, end = overlapping(own, other)
    linked = links != NO_LINK
    spans = [np.full(len(links), NO_LINK, dtype=np.int32) for _ in range(2)]
    kept = linked.copy()
    kept[linked] = end[links[linked]] > start[links[linked]]
    for span, place in zip(spans, (start, end)):
        span[kept] = place[links[kept]]
    return spans[0], spans[1]
