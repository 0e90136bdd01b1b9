"""Static vectors of words and of subword tokens with character n-grams (fastText, Bojanowski et al. 2017)."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from gensim.models import FastText
from gensim.models.fasttext import compute_ngrams_bytes, ft_hash_bytes
from gensim.models.keyedvectors import KeyedVectors
from numpy.typing import NDArray

from trelm.corpus.ragged import Ragged
from trelm.embeddings import SUBSAMPLING
from trelm.errors import DataError
from trelm.vocabulary.words import SCRIPTS_WITHOUT_SPACES

Architecture = Literal["skipgram", "cbow"]
# fastText's own 2,000,000 buckets of n-grams cost 0.8 GB at width 100, and 3.1 GB at 384.
BUCKETS = 100_000
# gensim silently drops what is beyond in a sentence (MAX_SENTENCE_LEN), so longer ones are cut in pieces.
_GENSIM_LONGEST = 10_000


@dataclass(frozen=True)
class StaticVectors:
    """Trained vectors of words.

    Attributes:
        keyed: gensim's own, of words and of n-gram buckets.
        ngrams: the n-grams of its words: only these have been trained, the other buckets hold noise.
        counts: occurrences of each word that has a vector, the most frequent first.
        dropped_words, dropped_tokens: words rarer than the minimum count, and how often they occur together.
    """

    keyed: KeyedVectors
    ngrams: frozenset[bytes]
    counts: dict[str, int]
    dropped_words: int
    dropped_tokens: int

    def __contains__(self, word: str) -> bool:
        return word in self.counts

    @property
    def width(self) -> int:
        """Columns of a vector."""
        return int(self.keyed.vector_size)

    def of(self, words: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors [n, k] of words that occurred often enough, zero for others, and which have one, bool [n]."""
        has_vector = np.array([word in self.counts for word in words], dtype=np.bool_)
        vectors = np.zeros((len(words), self.width), dtype=np.float32)
        for row in np.flatnonzero(has_vector).tolist():
            vectors[row] = self.keyed.get_vector(words[row])
        return vectors, has_vector

    def composed(self, texts: Sequence[str | None]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Vectors [n, k] of any texts, and which have one, bool [n]: of a word its own, of another text the mean of the
        vectors of those of its n-grams that occur in a word; zero for None and where there is no such n-gram.
        """
        vectors, has_vector = self.of([text or "" for text in texts])
        for row in np.flatnonzero(~has_vector).tolist():
            known = [ngram for ngram in self.ngrams_of(texts[row] or "") if ngram in self.ngrams]
            if known:
                places = [ft_hash_bytes(ngram) % self.keyed.bucket for ngram in known]
                vectors[row], has_vector[row] = self.keyed.vectors_ngrams[places].mean(axis=0), True
        return vectors, has_vector

    def ngrams_of(self, text: str) -> list[bytes]:
        """The n-grams of a text in UTF-8, the signs of its beginning and end counted."""
        return list(compute_ngrams_bytes(text, self.keyed.min_n, self.keyed.max_n))


@dataclass(frozen=True)
class Words:
    """The words of lines, as often as asked for: what spaces and punctuation signs part, the signs by themselves.

    Attributes:
        lines: as the vectors are to know them: in lower case where the vocabulary's entries are.
        lexicon: words of scripts that put no spaces between words, such as those of a dictionary: there the longest
            word of the lexicon is taken again and again, and a character that begins none stands alone.
    """

    lines: Sequence[str]
    lexicon: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[list[str]]:
        longest = max(map(len, self.lexicon), default=1)
        spaced = _Spaced()
        for line in self.lines:
            parts = line.translate(spaced).split()
            yield [word for part in parts for word in self._words(part, longest, spaced.unspaced)]

    def _words(self, part: str, longest: int, unspaced: set[str]) -> list[str]:
        """The words of what stands between spaces."""
        if unspaced.isdisjoint(part):
            return [part]
        words, start = [], 0
        while start < len(part):
            end = _spaced_end(part, start, unspaced) or self._longest_match(part, start, longest)
            words.append(part[start:end])
            start = end
        return words

    def _longest_match(self, part: str, start: int, longest: int) -> int:
        """Where the longest word of the lexicon that starts here ends, or the character where there is none."""
        ends = range(min(start + longest, len(part)), start + 1, -1)
        return next((end for end in ends if part[start:end] in self.lexicon), start + 1)


@dataclass(frozen=True)
class SubwordTokens:
    """Tokenised lines as lists of entries, as often as asked for.

    Attributes:
        corpus: ids. entries: the spelling of each id, `tokenizer.convert_ids_to_tokens(range(V))`.
    """

    corpus: Ragged
    entries: Sequence[str]

    def __iter__(self) -> Iterator[list[str]]:
        for line in range(len(self.corpus)):
            yield [self.entries[row] for row in self.corpus[line].tolist()]


def train_static_vectors(
    sentences: Iterable[Sequence[str]],
    *,
    architecture: Architecture,
    width: int,
    epochs: int,
    min_count: int,
    min_ngram: int = 3,
    max_ngram: int = 6,
    window: int = 5,
    negatives: int = 10,
    buckets: int = BUCKETS,
    seed: int,
) -> StaticVectors:
    """Train vectors on sentences, the same for the same seed: in one thread, more are not reproducible.

    Args:
        sentences: lists of words (`Words`, `SubwordTokens`, or any list), gone through `epochs` + 1 times.
        architecture: skipgram, or cbow, which is what WECHSEL and FOCUS were published with.
        width: k, columns of a vector. min_count: rarer words get no vector.
        min_ngram, max_ngram: lengths of the n-grams in characters, the signs of a word's beginning and end counted.
        window: words to either side. negatives: samples a word. buckets: that n-grams share, k floats each.

    Raises:
        DataError: no word occurs often enough.
        ValueError: the sentences can be gone through only once, or the lengths of n-grams make no sense.
    """
    if isinstance(sentences, Iterator):
        raise ValueError("static vectors: expected sentences that can be read again, found an iterator; give a list")
    if not 1 <= min_ngram <= max_ngram:
        raise ValueError(f"static vectors: expected 1 <= min_ngram <= max_ngram, found {min_ngram} and {max_ngram}")
    every, kept = _counted(sentences, min_count)
    model = FastText(
        sg=int(architecture == "skipgram"),
        vector_size=width,
        window=window,
        negative=negatives,
        min_count=1,
        min_n=min_ngram,
        max_n=max_ngram,
        bucket=buckets,
        sample=SUBSAMPLING,
        sorted_vocab=0,
        workers=1,
        seed=seed,
    )
    pieces = _Pieces(sentences)
    model.build_vocab_from_freq(kept)
    model.train(pieces, total_examples=sum(1 for _ in pieces), epochs=epochs)
    ngrams = frozenset(ngram for word in kept for ngram in compute_ngrams_bytes(word, min_ngram, max_ngram))
    return StaticVectors(model.wv, ngrams, kept, len(every) - len(kept), every.total() - sum(kept.values()))


def _counted(sentences: Iterable[Sequence[str]], min_count: int) -> tuple[Counter[str], dict[str, int]]:
    """Occurrences of all words, and of those that are frequent enough, by falling count, ties by spelling."""
    every = Counter(word for sentence in sentences for word in sentence)
    kept = dict(sorted(((w, c) for w, c in every.items() if c >= min_count), key=lambda pair: (-pair[1], pair[0])))
    if not kept:
        most = max(every.values(), default=0)
        raise DataError(
            f"static vectors: expected words that occur {min_count} times, found none that occurs more than {most}; "
            "give more text, or lower the minimum count"
        )
    return every, kept


class _Pieces:
    """Sentences cut to a length that gensim reads to its end."""

    def __init__(self, sentences: Iterable[Sequence[str]]) -> None:
        self._sentences = sentences

    def __iter__(self) -> Iterator[Sequence[str]]:
        for sentence in self._sentences:
            for start in range(0, len(sentence), _GENSIM_LONGEST):
                yield sentence[start : start + _GENSIM_LONGEST]


class _Spaced(dict[int, str]):
    """For `str.translate`: punctuation and symbols with spaces around, all else as it is; filled as characters come.

    It remembers the letters it has met of scripts that put no spaces between words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unspaced: set[str] = set()

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if unicodedata.name(character, "").partition(" ")[0] in SCRIPTS_WITHOUT_SPACES:
            self.unspaced.add(character)
        self[code] = f" {character} " if unicodedata.category(character)[0] in "PS" else character
        return self[code]


def _spaced_end(part: str, start: int, unspaced: set[str]) -> int | None:
    """Where the stretch of other scripts that starts here ends; None where none does."""
    end = start
    while end < len(part) and part[end] not in unspaced:
        end += 1
    return end if end > start else None
