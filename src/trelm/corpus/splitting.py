"""Which lines train, which are held out, which are dropped: decided on fingerprints, for whole corpora at once.

Lines that could concern each other have the same fingerprint. So text is dealt out to buckets by the first bits of its
fingerprints, in files, and one bucket after the other is decided: memory holds one bucket, about `BLOCK` lines of each
language, and never the text. Of the pairs, all fingerprints are in memory: about 100 bytes a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.mapped import let_go

Fingerprints = NDArray[np.uint64]
Mask = NDArray[np.bool_]
Positions = NDArray[np.int64]
Fates = NDArray[np.uint8]

BLOCK = 2**19
"""Lines that are read, and about as many that are decided, at a time."""

OTHER, TRAINING, HELD_OUT, DUPLICATE, EVALUATION, IN_PAIRS, BEYOND_LIMIT = range(7)
REASONS = {"duplicate": DUPLICATE, "evaluation": EVALUATION, "held_out": HELD_OUT}

_HELD_OUT_WANTED = 200  # sentences that a small corpus should give, for a held-out figure that is worth something
_LARGEST_RISE = 0.05  # of one language; a pair goes when either of its sides goes, which makes ten per cent at most
_ENTRY = np.dtype([("value", np.uint64), ("position", np.int64)])


@dataclass(frozen=True)
class FingerprintFile:
    """Fingerprints end to end in a file."""

    path: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def chunks(self, size: int) -> Iterator[Fingerprints]:
        """All of them, `size` at a time."""
        with self.path.open("rb") as stream:
            while len(chunk := np.fromfile(stream, dtype=np.uint64, count=size)):
                yield chunk


@dataclass(frozen=True)
class Part:
    """What becomes of the lines of one language, or of the pairs.

    Attributes:
        fates: [n] `TRAINING` (each sentence or pair once), the reason why it is dropped, or `OTHER`. For text, n counts
            its own lines and, after them, its side of the pairs, which are `TRAINING` or `OTHER`; it may be mapped.
        own: the lines that are counted: those of the text itself, or all pairs.
        held_out: [at most the limit] positions of what is held out and written, lowest content hash first.
    """

    fates: Fates
    own: int
    held_out: Positions

    @property
    def training(self) -> Mask:
        """[n] mask of what is trained on."""
        return np.asarray(self.fates == TRAINING)

    @property
    def dropped(self) -> dict[str, Mask]:
        """[own] a mask for each reason."""
        return {reason: np.asarray(self.fates[: self.own] == fate) for reason, fate in REASONS.items()}

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[Fates]:
        """The fates from `start` to `stop`, a block at a time."""
        stop = len(self.fates) if stop is None else stop
        for begin in range(start, stop, BLOCK):
            yield np.array(self.fates[begin : min(begin + BLOCK, stop)])
            let_go(self.fates)

    def tally(self, start: int, stop: int) -> dict[int, int]:
        """How many lines from `start` to `stop` have each fate."""
        counts = np.zeros(BEYOND_LIMIT + 1, dtype=np.int64)
        for chunk in self.chunks(start, stop):
            counts += np.bincount(chunk, minlength=len(counts))
        return dict(enumerate(counts.tolist()))


@dataclass(frozen=True)
class Split:
    """The parts of a corpus, and the fraction of each language that was held out."""

    source: Part
    target: Part
    pairs: Part
    fractions: tuple[float, float]


@dataclass(frozen=True)
class _Pairs:
    """The pairs, [p] each: what is held out, what is trained on, and fingerprints of whole pairs."""

    keys: Fingerprints
    evaluated: Mask
    usable: Mask
    chosen: Mask
    touching: Mask

    @property
    def training(self) -> Mask:
        return self.usable & ~self.touching

    def part(self, limit: int) -> Part:
        fates = np.full(len(self.keys), TRAINING, dtype=np.uint8)
        fates[self.touching] = HELD_OUT
        fates[~self.usable] = DUPLICATE
        fates[self.evaluated] = EVALUATION
        held_out = np.flatnonzero(self.chosen)
        return Part(fates, len(fates), held_out[np.argsort(self.keys[held_out], kind="stable")][:limit])


class _Buckets:
    """Lines of one language, dealt out by the first bits of their fingerprints; in memory where no folder is given."""

    def __init__(self, folder: Path | None, name: str, bits: int) -> None:
        self._folder, self._name, self._bits = folder, name, bits
        self._kept: list[NDArray[np.void]] = []

    def add(self, values: Fingerprints, positions: Positions) -> None:
        """Deal out lines; positions only rise."""
        entries = np.empty(len(values), dtype=_ENTRY)
        entries["value"], entries["position"] = values, positions
        if self._folder is None:
            self._kept.append(entries)
            return
        for number, members in enumerate(_by_bucket(values, self._bits)):
            with self._path(self._folder, number).open("ab") as stream:
                entries[members].tofile(stream)

    def get(self, number: int) -> tuple[Fingerprints, Positions]:
        """The fingerprints and positions of one bucket, in their order."""
        if self._folder is None:
            entries = np.concatenate([np.empty(0, dtype=_ENTRY), *self._kept])
        else:
            path = self._path(self._folder, number)
            entries = np.fromfile(path, dtype=_ENTRY) if path.exists() else np.empty(0, dtype=_ENTRY)
        return entries["value"].copy(), entries["position"].copy()

    def _path(self, folder: Path, number: int) -> Path:
        return folder / f"{self._name}-{number}.bucket"


class _Language:
    """The text of one language and its side of the pairs: one bucket at a time, and what becomes of each line."""

    def __init__(
        self,
        text: Fingerprints | FingerprintFile,
        side: Fingerprints,
        evaluation: Fingerprints,
        bits: int,
        folder: Path | None,
        name: str,
    ) -> None:
        self.own = len(text)
        self.fates = _new_fates(self.own + len(side), folder, name)
        self._side = side
        self._places = _by_bucket(side, bits)
        self._buckets = _Buckets(folder, name, bits)
        start = 0
        for values in blocks_of(text):
            evaluated, first = among(values, evaluation), first_occurrences(values)
            # Repeats go at once, so that no bucket grows by a line that is there a million times.
            kept = np.flatnonzero(first & ~evaluated)
            self._buckets.add(values[kept], start + kept)
            self.fates[start : start + len(values)] = np.where(evaluated, EVALUATION, np.where(first, OTHER, DUPLICATE))
            let_go(self.fates)
            start += len(values)

    def bucket(self, number: int) -> tuple[Fingerprints, Positions, Fingerprints, Positions]:
        """Text that is not from evaluation sets, its positions; sides of pairs, the numbers of the pairs."""
        places = self._places[number]
        return *self._buckets.get(number), self._side[places], places

    def distinct(self, number: int, evaluation: Fingerprints) -> int:
        """Sentences of a bucket that are not from evaluation sets."""
        text, _, side, _ = self.bucket(number)
        return len(np.unique(np.concatenate([text, side[~among(side, evaluation)]])))

    def held(self, number: int, fraction: float, chosen_pairs: Mask) -> Fingerprints:
        """What is held out of a bucket: by its own hash, or as a side of a pair that is."""
        text, _, side, places = self.bucket(number)
        mine = _is_chosen(side, fraction) | chosen_pairs[places]
        return np.concatenate([text[_is_chosen(text, fraction)], side[mine]])

    def decide(self, number: int, fraction: float, pairs: _Pairs, held: Fingerprints) -> tuple[Fingerprints, Positions]:
        """Settle a bucket; the hashes and positions of what is held out. `held` is what either language holds out."""
        text, positions, side, places = self.bucket(number)
        chosen = _is_chosen(text, fraction) | np.isin(text, side[pairs.chosen[places]])
        usable, touched = first_occurrences(text), chosen | among(text, held)
        everything = np.concatenate([text, side])
        whole = np.concatenate([positions, self.own + places])
        self.fates[positions[~usable]] = DUPLICATE
        self.fates[positions[usable & touched]] = HELD_OUT
        trains = first_among(everything, np.concatenate([usable & ~touched, pairs.training[places]]))
        self.fates[whole[trains]] = TRAINING
        let_go(self.fates)
        held_out = first_among(everything, np.concatenate([usable & chosen, pairs.chosen[places]]))
        return ranks(everything[held_out]), whole[held_out]


def split_corpus(
    source: Fingerprints | FingerprintFile,
    target: Fingerprints | FingerprintFile,
    pairs: tuple[Fingerprints, Fingerprints],
    *,
    evaluation: Fingerprints,
    fraction: float,
    limit: int,
    folder: Path | None = None,
) -> Split:
    """Remove evaluation sentences and duplicates, and hold sentences and pairs out by content (rule: `prepare`).

    Args:
        source, target: [n_s], [n_t] fingerprints of each language's text.
        pairs: [p] and [p], of the pairs' source and target sides.
        evaluation: of sentences that are removed from everything.
        fraction: share that is held out, before the rise for small corpora.
        limit: the most lines of a held-out file.
        folder: an empty one, for what is only needed meanwhile and for the fates that are returned; None keeps all in
            memory.
    """
    evaluation = np.unique(evaluation)
    bits = 0 if folder is None else max(0, -(-max(len(source), len(target)) // BLOCK) - 1).bit_length()
    languages = [
        _Language(text, side, evaluation, bits, folder, name)
        for text, side, name in zip((source, target), pairs, ("source", "target"))
    ]
    buckets = range(2**bits)
    fractions = [
        effective_fraction(sum(language.distinct(number, evaluation) for number in buckets), fraction, limit)
        for language in languages
    ]
    judged = _judge(pairs, evaluation, fractions)
    for number in buckets:
        held = _held(languages, number, fractions, judged.chosen)
        for language in languages:
            _, _, side, places = language.bucket(number)
            judged.touching[places] |= judged.usable[places] & among(side, held)
    lowest = [Lowest(limit) for _ in languages]
    for number in buckets:
        held = _held(languages, number, fractions, judged.chosen)
        for language, share, low in zip(languages, fractions, lowest):
            low.add(*language.decide(number, share, judged, held))
    parts = [Part(language.fates, language.own, low.positions) for language, low in zip(languages, lowest)]
    return Split(parts[0], parts[1], judged.part(limit), (fractions[0], fractions[1]))


def effective_fraction(sentences: int, fraction: float, limit: int) -> float:
    """The share of a language held out: `fraction`, or what makes about 200 (or `limit`) sentences, up to 5 %."""
    if not sentences:
        return fraction
    return max(fraction, min(_LARGEST_RISE, min(limit, _HELD_OUT_WANTED) / sentences))


def first_occurrences(values: Fingerprints) -> Mask:
    """[n] mask of the entries that no earlier one equals."""
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


class Lowest:
    """The positions with the lowest ranks of all that were added, in that order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._ranks = np.zeros(0, dtype=np.uint64)
        self.positions = np.zeros(0, dtype=np.int64)

    def add(self, ranks: Fingerprints, positions: Positions) -> None:
        ranks, positions = np.append(self._ranks, ranks), np.append(self.positions, positions)
        order = np.argsort(ranks, kind="stable")[: self._limit]
        self._ranks, self.positions = ranks[order], positions[order]


def _judge(pairs: tuple[Fingerprints, Fingerprints], evaluation: Fingerprints, fractions: list[float]) -> _Pairs:
    """What the pairs are by themselves; those that touch held-out text are still to be found."""
    evaluated = among(pairs[0], evaluation) | among(pairs[1], evaluation)
    keys = pair_ranks(pairs)
    usable = ~evaluated & first_occurrences(keys)
    chosen = usable & (_is_chosen(pairs[0], fractions[0]) | _is_chosen(pairs[1], fractions[1]))
    return _Pairs(keys, evaluated, usable, chosen, chosen.copy())


def _held(languages: list[_Language], number: int, fractions: list[float], chosen_pairs: Mask) -> Fingerprints:
    """What either language holds out of a bucket, sorted: text that both have must not be trained on as the one and
    scored as the other."""
    parts = [language.held(number, share, chosen_pairs) for language, share in zip(languages, fractions)]
    return np.unique(np.concatenate(parts))


def _new_fates(size: int, folder: Path | None, name: str) -> Fates:
    if folder is None or size == 0:
        return np.zeros(size, dtype=np.uint8)
    return np.memmap(folder / f"{name}.fates", dtype=np.uint8, mode="w+", shape=(size,))


def blocks_of(text: Fingerprints | FingerprintFile) -> Iterator[Fingerprints]:
    """All fingerprints of a text, `BLOCK` at a time."""
    if isinstance(text, FingerprintFile):
        yield from text.chunks(BLOCK)
    else:
        yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


def _by_bucket(values: Fingerprints, bits: int) -> list[Positions]:
    """For each bucket the positions of its values, rising."""
    if bits == 0:
        return [np.arange(len(values))]
    numbers = (values >> np.uint64(64 - bits)).astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.searchsorted(numbers[order], np.arange(1, 2**bits)))


def among(values: Fingerprints, known: Fingerprints) -> Mask:
    """[n] mask of the values that are in `known`, which is sorted."""
    if len(known) == 0:
        return np.zeros(len(values), dtype=np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[places] == values)


def first_among(values: Fingerprints, eligible: Mask) -> Mask:
    """[n] mask of the eligible entries that no earlier eligible one equals."""
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[np.flatnonzero(eligible)[first_occurrences(values[eligible])]] = True
    return mask


def _is_chosen(fingerprints: Fingerprints, fraction: float) -> Mask:
    return ranks(fingerprints) < np.uint64(fraction * 2.0**64)


def pair_ranks(pairs: tuple[Fingerprints, Fingerprints]) -> Fingerprints:
    """[p] hashes of whole pairs; `pairs` are the fingerprints of their sides."""
    return ranks(pairs[0] ^ ranks(pairs[1]))


def ranks(fingerprints: Fingerprints) -> Fingerprints:
    """[n] fingerprints hashed once more (the finaliser of SplitMix64), so that nothing of their own order is left."""
    mixed = fingerprints + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
