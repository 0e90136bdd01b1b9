"""Skip-gram vectors of the joint vocabulary's entries (METHOD section 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gensim.models import Word2Vec
from gensim.models.callbacks import CallbackAny2Vec
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

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

    Args:
        corpora: one a language, ids below `vocabulary_size`, no special tokens.
        on_progress: called after each epoch with the epochs done and all epochs.

    Raises:
        DataError: no line has two tokens.
        ValueError: an id is not in the vocabulary.
    """
    budget = _tokens_a_language(corpora, max_tokens)
    chosen = [choose_lines(corpus.lengths(), budget) for corpus in corpora]
    tokens = tuple(int(corpus.lengths()[lines].sum()) for corpus, lines in zip(corpora, chosen, strict=True))
    counts = sum(
        (_count(c, lines, vocabulary_size) for c, lines in zip(corpora, chosen, strict=True)), _zeros(vocabulary_size)
    )
    sentences = _Sentences(corpora, chosen, np.random.default_rng(seed))
    order = frequency_order(counts)
    vectors = np.zeros((vocabulary_size, width), dtype=np.float32)
    vectors[order] = _train(sentences, counts, order, width, window, negatives, epochs, seed, on_progress)
    repeats = tuple(used / max(_usable(corpus), 1) for used, corpus in zip(tokens, corpora, strict=True))
    dropped = sum(int((corpus.lengths() < 2).sum()) for corpus in corpora)
    return SubwordVectors(vectors, counts, tokens, repeats, dropped)


def choose_lines(lengths: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
    """Indices of the lines that make up `budget` tokens, never more: spread evenly, or all of them repeated.

    Lines of fewer than two tokens are left out: a token without a neighbour is not trained.

    Args:
        lengths: int64 [lines], tokens of each line.
        budget: tokens wanted; a corpus gives `MAX_REPEATS` times its own at most.
    """
    usable = np.flatnonzero(lengths >= 2)
    sizes = lengths[usable]
    total = int(sizes.sum())
    if not total:
        return usable
    repeats, rest = divmod(min(budget, MAX_REPEATS * total), total)
    # A line is taken where the share of tokens before it reaches a new line's worth: its own length has no say in it.
    before = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    picked = usable[_spread(before, sizes, rest, total)]
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


def _usable(corpus: Ragged) -> int:
    """Tokens on lines that have a context."""
    lengths = corpus.lengths()
    return int(lengths[lengths >= 2].sum())


def _spread(before: NDArray[np.int64], sizes: NDArray[np.int64], budget: int, total: int) -> NDArray[np.bool_]:
    """Which lines make up about `budget` of `total` tokens, evenly over the text, never more than `budget`."""
    picked = np.zeros(len(sizes), dtype=np.bool_)
    taken = 0
    for line, (start, size) in enumerate(zip(before.tolist(), sizes.tolist(), strict=True)):
        if taken * total <= start * budget and taken < budget:
            picked[line] = True
            taken += size
    for line in np.flatnonzero(picked)[::-1]:
        if taken <= budget:
            break
        picked[line] = False
        taken -= int(sizes[line])
    return picked


def _zeros(size: int) -> NDArray[np.int64]:
    return np.zeros(size, dtype=np.int64)


def _count(corpus: Ragged, lines: NDArray[np.int64], vocabulary_size: int) -> NDArray[np.int64]:
    """Occurrences of each entry on `lines`, repeated ones counted each time; int64 [V]."""
    times = np.bincount(lines, minlength=len(corpus))
    weights = np.repeat(times, corpus.lengths())
    highest = int(corpus.values.max(initial=0))
    if highest >= vocabulary_size:
        raise ValueError(
            f"skip_gram: expected ids below {vocabulary_size}, found {highest}; encode with that vocabulary"
        )
    return np.bincount(corpus.values, weights=weights, minlength=vocabulary_size).astype(np.int64)


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

    def __init__(
        self, corpora: Sequence[Ragged], chosen: Sequence[NDArray[np.int64]], rng: np.random.Generator
    ) -> None:
        self._corpora = corpora
        pairs = np.concatenate([np.stack([np.full_like(lines, c), lines], axis=1) for c, lines in enumerate(chosen)])
        self._pairs = rng.permutation(pairs)
        self._length = sum(
            int(np.ceil(corpus.lengths()[lines] / _GENSIM_LONGEST).sum())
            for corpus, lines in zip(corpora, chosen, strict=True)
        )

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        for corpus, line in self._pairs.tolist():
            ids = self._corpora[corpus][line].tolist()
            for start in range(0, len(ids), _GENSIM_LONGEST):
                yield ids[start : start + _GENSIM_LONGEST]


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
