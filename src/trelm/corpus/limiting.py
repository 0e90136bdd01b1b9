"""Experiments with little data: of what would train, an even sample by content, after the split and untouched by it.

Of the pairs the `max_pairs` lowest hashes train, of the target language's own lines the `max_lines` lowest: whatever
order the files have, and a smaller sample is part of a larger one. What one limit drops must not come back by another
way: a line of text that equals the target side of any pair, kept or not, is not in the sample (it trains as a side of
its pair, if that is kept), and of the pairs only those that are kept give their target side to the text.
"""

from __future__ import annotations

import numpy as np

from trelm.corpus.mapped import let_go
from trelm.corpus.splitting import (
    BEYOND_LIMIT,
    BLOCK,
    IN_PAIRS,
    OTHER,
    TRAINING,
    FingerprintFile,
    Fingerprints,
    Lowest,
    Part,
    Positions,
    Split,
    among,
    blocks_of,
    first_among,
    pair_ranks,
    ranks,
)

LIMIT_REASONS = {"in_pairs": IN_PAIRS, "beyond_limit": BEYOND_LIMIT}


def limit_training(
    split: Split,
    target: Fingerprints | FingerprintFile,
    pairs: tuple[Fingerprints, Fingerprints],
    *,
    max_lines: int | None,
    max_pairs: int | None,
) -> None:
    """Change the fates of the target text and of the pairs by the rules at the top; source text stays as it is.

    Args:
        target: [n] fingerprints of the target text. pairs: [p] and [p], of all pairs' source and target sides.
        max_lines: lines of the target text's own that train. max_pairs: pairs that train, and whose target sides do.
    """
    if max_lines is None and max_pairs is None:
        return
    if max_pairs is not None:
        _keep_lowest(split.pairs, pair_ranks(pairs), max_pairs)
    kept = _leave_out_sides(split.target, target, np.unique(pairs[1]), max_lines)
    if kept is not None:
        _drop_others(split.target, kept)
    trains = first_among(pairs[1], split.pairs.training)
    split.target.fates[split.target.own :] = np.where(trains, TRAINING, OTHER)
    let_go(split.target.fates)


def _keep_lowest(part: Part, hashes: Fingerprints, limit: int) -> None:
    """Of what trains, all but the lowest hashes is beyond the limit."""
    places = np.flatnonzero(part.training)
    part.fates[places[np.argsort(hashes[places], kind="stable")][limit:]] = BEYOND_LIMIT


def _leave_out_sides(
    part: Part, text: Fingerprints | FingerprintFile, sides: Fingerprints, limit: int | None
) -> Positions | None:
    """Take the lines that are sides of pairs out of training; rising positions of the lowest hashes of the others."""
    lowest, start = Lowest(limit or 0), 0
    for values in blocks_of(text):
        fates = part.fates[start : start + len(values)]
        in_pairs = among(values, sides)
        fates[in_pairs & (fates == TRAINING)] = IN_PAIRS
        rest = np.flatnonzero(fates == TRAINING)
        lowest.add(ranks(values[rest]), start + rest)
        let_go(part.fates)
        start += len(values)
    return None if limit is None else np.sort(lowest.positions)


def _drop_others(part: Part, kept: Positions) -> None:
    """Of the text's own lines that train, those not `kept` are beyond the limit."""
    for start in range(0, part.own, BLOCK):
        stop = min(start + BLOCK, part.own)
        fates = part.fates[start:stop]
        trains = fates == TRAINING
        trains[kept[np.searchsorted(kept, start) : np.searchsorted(kept, stop)] - start] = False
        fates[trains] = BEYOND_LIMIT
        let_go(part.fates)
