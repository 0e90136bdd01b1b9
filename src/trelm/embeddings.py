"""Skip-gram vectors of the joint vocabulary's entries (METHOD section 2)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gensim.models import Word2Vec
from gensim.models.callbacks import CallbackAny2Vec
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from trelm.corpus.mapped import let_go
from trelm.corpus.ragged import Ragged
from trelm.errors import DataError
from trelm.workspace import atomic_path, read_json, write_json

# Word2vec's threshold, not fastText's 1e-4, which skips too much of a small corpus. Measured on English and Indonesian
# (2 x 0.5 M tokens, 5 epochs, one seed): the Procrustes mapping finds 3.6% of held-out shared entries instead of 1.0%,
# for twice the time.
SUBSAMPLING = 1e-3
# A language with little text is shown several times an epoch, so that the other one may keep its text; not more often,
# because that would only make its rare entries look frequent.
MAX_REPEATS = 10
# gensim silently drops what is beyond in a sentence (MAX_SENTENCE_LEN), so longer lines are cut in pieces.
_GENSIM_LONGEST = 10_000
_LINES = 1 << 16  # lines that are looked at together


@dataclass(frozen=True)
class SubwordVectors:
    """Vectors of the joint vocabulary's entries.

    Attributes:
        vectors: float32 [V, d]; a row whose entry never occurred is zero and means nothing.
        counts: int64 [V], occurrences in the text of one epoch, repeats included.
        tokens: for each corpus, its tokens in one epoch, repeats included.
        repeats: for each corpus, how often its text is read in one epoch (0.5: every other line).
        dropped_lines: lines of fewer than two tokens, which have no context to learn from.
    """

    vectors: NDArray[np.float32]
    counts: NDArray[np.int64]
    tokens: tuple[int, ...]
    repeats: tuple[float, ...]
    dropped_lines: int

    @property
    def has_vector(self) -> NDArray[np.bool_]:
        """bool [V]: the entries that occurred, the only ones whose row may be used."""
        return self.counts > 0

    def save(self, folder: Path) -> None:
        """Write `vectors.safetensors` and `vectors.json`."""
        _save_arrays(folder / "vectors.safetensors", {"vectors": self.vectors, "counts": self.counts})
        about = {"tokens": self.tokens, "repeats": self.repeats, "dropped_lines": self.dropped_lines}
        write_json(folder / "vectors.json", {**about, "entries_without_vector": int((~self.has_vector).sum())})

    @staticmethod
    def load(folder: Path) -> SubwordVectors:
        """Read what `save` wrote.

        Raises:
            RunFolderError: the JSON file is damaged.
        """
        arrays, about = load_file(folder / "vectors.safetensors"), read_json(folder / "vectors.json")
        tokens, repeats = tuple(about["tokens"]), tuple(about["repeats"])
        return SubwordVectors(arrays["vectors"], arrays["counts"], tokens, repeats, about["dropped_lines"])


def skip_gram(
    corpora: Sequence[Ragged],
    *,
    vocabulary_size: int,
    width: int,
    window: int,
    negatives: int,
    epochs: int,
    max_tokens: int | None,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> SubwordVectors:
    """Skip-gram with negative sampling over the tokenized joint corpus (METHOD section 2), the same for the same seed.

    The languages contribute equally many tokens: `max_tokens`, or the largest corpus where that is less. A larger
    corpus gives whole lines spread evenly over it, a smaller one is repeated, `MAX_REPEATS` times at most. Lines are
    mixed, so that the falling learning rate treats the languages alike. One thread: more are not reproducible.
    Memory grows with `max_tokens` and the vocabulary, not with the corpora.

    Args:
        corpora: one a language, ids below `vocabulary_size`, no special tokens.
        on_progress: called after each epoch with the epochs done and all epochs.

    Raises:
        DataError: no line has two tokens.
        ValueError: an id is not in the vocabulary.
    """
    budget = _tokens_a_language(corpora, max_tokens)
    chosen = [_Chosen.of(corpus, budget) for corpus in corpora]
    counts = sum((text.count(vocabulary_size) for text in chosen), np.zeros(vocabulary_size, dtype=np.int64))
    sentences = _Sentences(chosen, np.random.default_rng(seed))
    order = frequency_order(counts)
    vectors = np.zeros((vocabulary_size, width), dtype=np.float32)
    vectors[order] = _train(sentences, counts, order, width, window, negatives, epochs, seed, on_progress)
    tokens = tuple(text.tokens for text in chosen)
    repeats = tuple(used / max(_usable(corpus), 1) for used, corpus in zip(tokens, corpora, strict=True))
    dropped = sum(int(np.count_nonzero(lengths < 2)) for corpus in corpora for lengths in _lengths(corpus))
    return SubwordVectors(vectors, counts, tokens, repeats, dropped)


def choose_lines(lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Indices of the lines that make up `budget` tokens, never more: spread evenly, or all of them repeated.

    Lines of fewer than two tokens are left out: a token without a neighbour is not trained.

    Args:
        lengths: int64 [lines], tokens of each line.
        budget: tokens wanted; a corpus gives `MAX_REPEATS` times its own at most.
    """
    return _choose_lines(lambda: (lengths[start : start + _LINES] for start in range(0, len(lengths), _LINES)), budget)


def _choose_lines(parts: Callable[[], Iterator[NDArray[np.int64]]], budget: int) -> NDArray[np.int64]:
    """As `choose_lines`; `parts` gives the lengths again and again, some at a time."""
    total = sum(int(lengths[lengths >= 2].sum()) for lengths in parts())
    if not total:
        return np.zeros(0, dtype=np.int64)
    repeats, rest = divmod(min(budget, MAX_REPEATS * total), total)
    picked = _spread(parts(), rest, total)
    if not repeats:
        return picked
    usable = np.concatenate([np.flatnonzero(lengths >= 2) + start for start, lengths in _with_starts(parts())])
    return np.concatenate([np.tile(usable, repeats), picked])


def frequency_order(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that occurred, int64, by falling count, ties by row."""
    order = np.argsort(-counts, kind="stable")
    return order[counts[order] > 0].astype(np.int64)


def _tokens_a_language(corpora: Sequence[Ragged], max_tokens: int | None) -> int:
    largest = max(map(_usable, corpora), default=0)
    if not largest:
        raise DataError(
            "subword vectors: expected text of both languages, found no line of two or more tokens; give more text"
        )
    return largest if max_tokens is None else min(max_tokens, largest)


def _lengths(corpus: Ragged) -> Iterator[NDArray[np.int64]]:
    """Lengths of all lines, some at a time."""
    for start in range(0, len(corpus), _LINES):
        yield np.diff(corpus.offsets[start : start + _LINES + 1])
        let_go(corpus.offsets)


def _usable(corpus: Ragged) -> int:
    """Tokens on lines that have a context."""
    return sum(int(lengths[lengths >= 2].sum()) for lengths in _lengths(corpus))


def _with_starts(parts: Iterable[NDArray[np.int64]]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Each part with the number of its first line."""
    start = 0
    for part in parts:
        yield start, part
        start += len(part)


def _spread(parts: Iterable[NDArray[np.int64]], budget: int, total: int) -> NDArray[np.int64]:
    """Lines that make up about `budget` of `total` tokens, evenly over the text, never more than `budget`.

    A line is taken where the share of tokens before it reaches a new line's worth: its own length has no say in it.
    """
    picked, taken, before = array("q"), 0, 0
    for start, lengths in _with_starts(parts):
        for line, size in enumerate(lengths.tolist(), start):
            if size < 2:
                continue
            if taken * total <= before * budget and taken < budget:
                picked.append(line)
                taken += size
            before += size
    if taken > budget:
        picked.pop()  # below the budget until it came
    return np.array(picked, dtype=np.int64)


@dataclass(frozen=True)
class _Chosen:
    """The lines of one corpus that are read in an epoch.

    Attributes:
        text: the corpus, or a copy of the lines that are read where these are a part of it: they lie all over it, and
            one that is mapped into memory would be there as a whole.
        lines: int64 [lines read], places in `text`, repeated ones as often as they are read.
        tokens: of the lines read.
    """

    text: Ragged
    lines: NDArray[np.int64]
    tokens: int

    @staticmethod
    def of(corpus: Ragged, budget: int) -> _Chosen:
        """About `budget` tokens of a corpus, see `choose_lines`."""
        lines = _choose_lines(lambda: _lengths(corpus), budget)
        tokens = int(corpus.lengths_at(lines).sum())
        if budget >= _usable(corpus):
            return _Chosen(corpus, lines, tokens)
        return _Chosen(_copied(corpus, lines), np.arange(len(lines)), tokens)

    def count(self, vocabulary_size: int) -> NDArray[np.int64]:
        """Occurrences of each entry, those on repeated lines counted each time; int64 [V].

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        counts, times = np.zeros(vocabulary_size, dtype=np.int64), np.bincount(self.lines, minlength=len(self.text))
        for start, lengths in _with_starts(_lengths(self.text)):
            stop = start + len(lengths)
            ids = np.asarray(self.text.values[self.text.offsets[start] : self.text.offsets[stop]])
            highest = int(ids.max(initial=0))
            if highest >= vocabulary_size:
                raise ValueError(
                    f"skip_gram: expected ids below {vocabulary_size}, found {highest}; encode with that vocabulary"
                )
            weights = np.repeat(times[start:stop], lengths)
            counts += np.bincount(ids, weights=weights, minlength=vocabulary_size).astype(np.int64)
            let_go(self.text.values)
        return counts


def _copied(corpus: Ragged, lines: NDArray[np.int64]) -> Ragged:
    """A copy of some lines in memory."""
    parts = [corpus.take(lines[start : start + _LINES]) for start in range(0, len(lines), _LINES)]
    offsets = np.concatenate([[0], *(part.lengths() for part in parts)]).cumsum()
    return Ragged(np.concatenate([np.zeros(0, dtype=np.int32), *(part.values for part in parts)]), offsets)


def _train(
    sentences: _Sentences,
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    width: int,
    window: int,
    negatives: int,
    epochs: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    """Vectors [len(order), width] in the order of `order`."""
    model = Word2Vec(
        sg=1,
        vector_size=width,
        window=window,
        negative=negatives,
        min_count=1,
        sample=SUBSAMPLING,
        sorted_vocab=0,
        workers=1,
        seed=seed,
        hashfxn=int,
    )
    model.build_vocab_from_freq({int(row): int(counts[row]) for row in order}, corpus_count=len(sentences))
    callbacks = [] if on_progress is None else [_Progress(on_progress, epochs)]
    model.train(sentences, total_examples=len(sentences), epochs=epochs, callbacks=callbacks)
    return np.asarray(model.wv.vectors, dtype=np.float32)


class _Sentences:
    """The chosen lines of all corpora in one mixed order, as often as gensim asks for them."""

    def __init__(self, chosen: Sequence[_Chosen], rng: np.random.Generator) -> None:
        self._chosen = chosen
        self._starts = np.cumsum([0, *(len(text.lines) for text in chosen)])
        self._order = rng.permutation(int(self._starts[-1]))
        self._length = sum(int(np.ceil(text.text.lengths_at(text.lines) / _GENSIM_LONGEST).sum()) for text in chosen)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self._order), _LINES):
            places = self._order[start : start + _LINES]
            corpora = np.searchsorted(self._starts, places, side="right") - 1
            for corpus, place in zip(corpora.tolist(), (places - self._starts[corpora]).tolist(), strict=True):
                text = self._chosen[corpus]
                ids = text.text[text.lines[place]].tolist()
                for first in range(0, len(ids), _GENSIM_LONGEST):
                    yield ids[first : first + _GENSIM_LONGEST]
            for text in self._chosen:
                let_go(text.text.values)


class _Progress(CallbackAny2Vec):  # type: ignore[misc]  # gensim has no types
    def __init__(self, on_progress: Callable[[int, int], None], epochs: int) -> None:
        self._on_progress = on_progress
        self._epochs = epochs
        self._done = 0

    def on_epoch_end(self, model: Word2Vec) -> None:
        self._done += 1
        self._on_progress(self._done, self._epochs)


def _save_arrays(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary)
