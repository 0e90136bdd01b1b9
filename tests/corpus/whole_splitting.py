"""The split of a corpus, decided with all fingerprints in memory at once: the oracle of the one by buckets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.splitting import effective_fraction

Fingerprints = NDArray[np.uint64]
Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class WholePart:
    """What becomes of the lines of one language, or of the pairs.

    Attributes:
        training: [n] mask of what is trained on, each sentence or pair once.
        held_out: [at most the limit] positions of what is held out and written, lowest content hash first.
        dropped: [m] a mask for each reason. For pairs m = n; for text, m counts its own lines, n those and, after them,
            its side of the pairs.
    """

    training: Mask
    held_out: Positions
    dropped: dict[str, Mask]


def split_whole(
    source: Fingerprints,
    target: Fingerprints,
    pairs: tuple[Fingerprints, Fingerprints],
    *,
    evaluation: Fingerprints,
    fraction: float,
    limit: int,
) -> tuple[WholePart, WholePart, WholePart, tuple[float, ...]]:
    """Remove evaluation sentences and duplicates, and hold sentences and pairs out by content (rule: `prepare`).

    Args:
        source, target: [n_s], [n_t] fingerprints of each language's text.
        pairs: [p] and [p], of the pairs' source and target sides.
        evaluation: of sentences that are removed from everything.
        fraction: share that is held out, before the rise for small corpora.
        limit: the most lines of a held-out file.
    """
    texts = (source, target)
    evaluated = np.isin(pairs[0], evaluation) | np.isin(pairs[1], evaluation)
    fractions = tuple(
        effective_fraction(_distinct(np.concatenate([text, side]), evaluation), fraction, limit)
        for text, side in zip(texts, pairs)
    )
    keys = _ranks(pairs[0] ^ _ranks(pairs[1]))
    duplicate = ~evaluated & ~_first_occurrences(keys)
    usable = ~evaluated & ~duplicate
    chosen = usable & (_is_chosen(pairs[0], fractions[0]) | _is_chosen(pairs[1], fractions[1]))
    # Of either language: text that both corpora hold must not be trained on as the one and scored as the other.
    held = np.concatenate(
        [
            np.concatenate([values[_is_chosen(values, fraction)] for values in (text, side)] + [side[chosen]])
            for text, side, fraction in zip(texts, pairs, fractions)
        ]
    )
    touching = usable & (chosen | np.isin(pairs[0], held) | np.isin(pairs[1], held))
    training = usable & ~touching
    parts = [
        _split_text(text, side, evaluation, fraction, training, chosen, held, limit)
        for text, side, fraction in zip(texts, pairs, fractions)
    ]
    dropped = {"duplicate": duplicate, "evaluation": evaluated, "held_out": touching}
    pair_part = WholePart(training, _lowest(keys, chosen, limit), dropped)
    return parts[0], parts[1], pair_part, fractions


def _split_text(
    text: Fingerprints,
    side: Fingerprints,
    evaluation: Fingerprints,
    fraction: float,
    training_pairs: Mask,
    held_out_pairs: Mask,
    held: Fingerprints,
    limit: int,
) -> WholePart:
    """One language: its text [n], then the sides of the pairs [p]; `held` is what either language holds out."""
    evaluated = np.isin(text, evaluation)
    duplicate = ~evaluated & ~_first_occurrences(text)
    chosen = _is_chosen(text, fraction) | np.isin(text, side[held_out_pairs])
    usable = ~evaluated & ~duplicate
    everything = np.concatenate([text, side])
    touched = chosen | np.isin(text, held)
    training = _first_among(everything, np.concatenate([usable & ~touched, training_pairs]))
    held_out = _first_among(everything, np.concatenate([usable & chosen, held_out_pairs]))
    dropped = {"duplicate": duplicate, "evaluation": evaluated, "held_out": usable & touched}
    return WholePart(training, _lowest(_ranks(everything), held_out, limit), dropped)


def _first_among(values: Fingerprints, eligible: Mask) -> Mask:
    """[n] mask of the eligible entries that no earlier eligible one equals."""
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[np.flatnonzero(eligible)[_first_occurrences(values[eligible])]] = True
    return mask


def _lowest(ranks: Fingerprints, eligible: Mask, limit: int) -> Positions:
    """Positions of the eligible entries with the lowest ranks, in that order."""
    positions = np.flatnonzero(eligible)
    return positions[np.argsort(ranks[positions], kind="stable")][:limit]


def _is_chosen(fingerprints: Fingerprints, fraction: float) -> Mask:
    return _ranks(fingerprints) < np.uint64(fraction * 2.0**64)


def _ranks(fingerprints: Fingerprints) -> Fingerprints:
    """[n] fingerprints hashed once more (the finaliser of SplitMix64), so that nothing of their own order is left."""
    mixed = fingerprints + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _distinct(fingerprints: Fingerprints, without: Fingerprints) -> int:
    unique = np.unique(fingerprints)
    return int((~np.isin(unique, without)).sum())


def _first_occurrences(values: Fingerprints) -> Mask:
    seen: set[int] = set()
    return np.array([not (v in seen or seen.add(v)) for v in values.tolist()], dtype=np.bool_)  # type: ignore[func-returns-value]
