"""Static vectors: what they learn, what they leave out, and gensim's own composition as the oracle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError
from trelm.initialisation.static_vectors import Architecture, StaticVectors, SubwordTokens, Words, train_static_vectors

# Two circles of words: the words of one circle stand by each other, never by those of the other.
FRUIT = ["banana", "cherry", "damson", "quince", "papaya"]
TOOLS = ["hammer", "pliers", "wrench", "chisel", "mallet"]


def sentences(count: int, seed: int = 1) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(FRUIT if line % 2 else TOOLS).tolist() for line in range(count)]


def train(
    text: Sequence[Sequence[str]], architecture: Architecture = "skipgram", epochs: int = 5, seed: int = 1
) -> StaticVectors:
    return train_static_vectors(
        text, architecture=architecture, width=16, epochs=epochs, min_count=2, buckets=2_000, negatives=5, seed=seed
    )


@pytest.fixture(scope="module")
def vectors() -> StaticVectors:
    return train([*sentences(400), ["rare", "banana"]])


@pytest.mark.parametrize("architecture", ["skipgram", "cbow"])
def test_words_of_one_circle_are_nearer(architecture: Architecture) -> None:
    rows, has_vector = train(sentences(2_000), architecture, epochs=20).of([*FRUIT, *TOOLS])
    assert has_vector.all()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    within = (cosines[:5, :5].sum() - 5) / 20
    assert within > cosines[:5, 5:].mean() + 0.2


def test_the_same_seed_gives_the_same_vectors_and_another_one_others() -> None:
    first, second, other = (train(sentences(50), seed=seed).of(FRUIT)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_word_below_the_minimum_count_has_no_vector_and_is_counted(vectors: StaticVectors) -> None:
    rows, has_vector = vectors.of(["banana", "rare", "absent"])
    assert has_vector.tolist() == [True, False, False]
    assert rows[0].any()
    assert not rows[1:].any()
    assert (vectors.dropped_words, vectors.dropped_tokens) == (1, 1)
    assert "banana" in vectors
    assert "rare" not in vectors
    assert vectors.counts["banana"] == 201
    assert next(iter(vectors.counts)) == "banana"
    assert vectors.width == 16


def test_an_unseen_word_of_known_ngrams_is_composed_as_gensim_does(vectors: StaticVectors) -> None:
    text = "anan"  # <ana and nan> occur nowhere, the rest in banana
    rows, has_vector = vectors.composed(["banana", text])
    assert has_vector.all()
    np.testing.assert_array_equal(rows[0], vectors.keyed.get_vector("banana"))
    known = {"ana": "ana", "nan": "nan", "anan": "anan"}
    expected = np.mean([ngram_vector(vectors, ngram) for ngram in known], axis=0)
    np.testing.assert_allclose(rows[1], expected, rtol=1e-6)


def ngram_vector(vectors: StaticVectors, ngram: str) -> np.ndarray:
    """Gensim's vector of a text whose only n-gram of that length, without the signs of its ends, this is."""
    from_gensim = vectors.keyed
    return from_gensim.vectors_ngrams[fnv1a(ngram.encode()) % from_gensim.bucket]


def fnv1a(data: bytes) -> int:
    """fastText's hash, written from its description: 32-bit FNV-1a."""
    value = 2166136261
    for byte in data:
        value = ((value ^ byte) * 16777619) % 2**32
    return value


def test_all_known_ngrams_give_what_gensim_gives(vectors: StaticVectors) -> None:
    everything = StaticVectors(vectors.keyed, _All(), vectors.counts, 0, 0)
    texts = ["bananas", "hammers", "zzz", "ü"]
    rows, has_vector = everything.composed(texts)
    assert has_vector.all()
    np.testing.assert_allclose(rows, np.stack([vectors.keyed.get_vector(text) for text in texts]), rtol=1e-6)


class _All(frozenset[bytes]):
    def __contains__(self, item: object) -> bool:
        return True


@pytest.mark.parametrize("text", [None, "", "xyzxyz", "##"])
def test_no_vector_is_made_of_ngrams_that_no_word_has(vectors: StaticVectors, text: str | None) -> None:
    rows, has_vector = vectors.composed([text])
    assert not has_vector[0]
    assert not rows.any()


def test_a_long_sentence_is_read_to_its_end() -> None:
    # "late" and "night" stand beyond the 10,000 words that gensim reads of a sentence.
    long = ["early", "day"] * 5_000 + ["late", "night"] * 300
    rows, _ = train([long]).of(["early", "day", "late", "night"])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert unit[2] @ unit[3] > unit[1] @ unit[2] + 0.2


def test_refuses_a_text_without_a_frequent_word() -> None:
    with pytest.raises(DataError, match="expected words that occur 2 times, found none that occurs more than 1;"):
        train([["each", "word", "once"]])
    with pytest.raises(DataError, match="found none that occurs more than 0;"):
        train([])


def test_refuses_an_iterator_and_impossible_ngrams() -> None:
    with pytest.raises(ValueError, match="expected sentences that can be read again, found an iterator; give a list"):
        train(iter(sentences(3)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 1 <= min_ngram <= max_ngram, found 4 and 3"):
        train_static_vectors([], architecture="cbow", width=4, epochs=1, min_count=1, min_ngram=4, max_ngram=3, seed=1)


def test_words_of_a_line() -> None:
    assert list(Words(["Dia makan, (bukan?) nasi-goreng!", ""])) == [
        ["Dia", "makan", ",", "(", "bukan", "?", ")", "nasi", "-", "goreng", "!"],
        [],
    ]


def test_vowel_signs_stay_in_their_word() -> None:
    assert list(Words(["हिन्दी में।"])) == [["हिन्दी", "में", "।"]]


def test_without_spaces_the_longest_word_of_the_lexicon_is_taken() -> None:
    lexicon = frozenset(["中国", "中国人", "人民", "吃饭"])
    assert list(Words(["中国人民iPhone吃饭。"], lexicon)) == [["中国人", "民", "iPhone", "吃饭", "。"]]
    assert list(Words(["中国"])) == [["中", "国"]]


@given(
    st.lists(st.text("ab 中国人民,.é", max_size=12), max_size=4),
    st.frozensets(st.text("中国人", min_size=1, max_size=3)),
)
def test_no_character_is_lost_and_it_can_be_read_again(lines: list[str], lexicon: frozenset[str]) -> None:
    words = Words(lines, lexicon)
    first = list(words)
    assert ["".join(line) for line in first] == ["".join(line.split()) for line in lines]
    assert list(words) == first


def test_subword_tokens_are_the_entries_of_the_ids() -> None:
    tokens = SubwordTokens(Ragged.of([[2, 0], [], [1]]), ["##a", "b", "c"])
    assert list(tokens) == [["c", "##a"], [], ["b"]]
    assert list(tokens) == list(tokens)
