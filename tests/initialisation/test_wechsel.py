"""WECHSEL against its formula, row by row, and a language that is a turned copy of another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from trelm.errors import DataError
from trelm.initialisation.mixture import NEIGHBOURS, RANDOM, SPECIAL
from trelm.initialisation.static_vectors import StaticVectors, train_static_vectors
from trelm.initialisation.surface import Surface
from trelm.initialisation.wechsel import dictionary_vectors, entry_vectors, wechsel

Array = NDArray[np.float64]
NO_PAIRS = np.zeros((0, 2), dtype=np.int64)


def row_by_row(
    target: Array, source: Array, target_words: Array, source_words: Array, neighbours: int, temperature: float
) -> Array:
    """The formula, one entry at a time, dense, with scipy's Procrustes solution."""
    turned = source @ orthogonal_procrustes(source_words, target_words)[0]
    theirs = [e for e in range(len(source)) if source[e].any()]
    weights = np.zeros((len(target), len(source)))
    for t in range(len(target)):
        if target[t].any():
            lengths = np.linalg.norm(target[t]) * np.linalg.norm(turned[theirs], axis=1)
            cosines = turned[theirs] @ target[t] / lengths
            best = sorted(range(len(theirs)), key=lambda place: -cosines[place])[:neighbours]
            powers = [np.exp(cosines[place] / temperature) for place in best]
            for place, power in zip(best, powers):
                weights[t, theirs[place]] = power / sum(powers)
    return weights


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.05, 0.1, 1.0]), st.integers(1, 60))
def test_equals_the_formula_row_by_row(seed: int, neighbours: int, temperature: float, cells: int) -> None:
    rng = np.random.default_rng(seed)
    target, source = (rng.normal(size=(rng.integers(1, 12), 4)) for _ in range(2))
    target[rng.random(len(target)) < 0.2], source[rng.random(len(source)) < 0.2] = 0, 0
    words = rng.normal(size=(2, 9, 4))
    mixture = wechsel(
        target, source, *words, specials=NO_PAIRS, neighbours=neighbours, temperature=temperature, cells=cells
    )
    expected = row_by_row(target, source, *words, neighbours, temperature)
    np.testing.assert_allclose(mixture.weights.toarray(), expected, atol=1e-9)


def test_finds_each_entry_of_a_turned_copy() -> None:
    rng = np.random.default_rng(5)
    source = rng.normal(size=(40, 8))
    turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    target = 3.0 * source @ turn  # lengths do not matter
    mixture = wechsel(target, source, target[:20], source[:20], specials=NO_PAIRS, temperature=0.01)
    np.testing.assert_array_equal(np.asarray(mixture.weights.argmax(axis=1)).ravel(), np.arange(40))
    assert (np.diff(mixture.weights.indptr) == 10).all()


def test_of_equally_near_entries_the_first_are_taken() -> None:
    rng = np.random.default_rng(2)
    words = rng.normal(size=(300, 7))
    source = np.tile(words, (3, 1)) * rng.uniform(0.1, 9, size=(900, 1))  # each direction three times
    mixture = wechsel(words, source, words, words, specials=NO_PAIRS, neighbours=2)
    expected = np.stack([np.arange(300), np.arange(300, 600)], axis=1)
    np.testing.assert_array_equal(np.sort(mixture.weights.indices.reshape(300, 2), axis=1), expected)
    np.testing.assert_allclose(mixture.weights.data, 0.5)


def test_only_specials_are_copied_and_entries_without_a_vector_stay_empty() -> None:
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    target[[0, 2]] = 0
    specials = np.array([[0, 4], [1, 3]])
    mixture = wechsel(target, source, source[:3], source[:3], specials=specials, neighbours=2)
    assert mixture.provenance.tolist() == [SPECIAL, SPECIAL, RANDOM, NEIGHBOURS]
    assert mixture.weights[:2].nonzero()[1].tolist() == [4, 3]


def test_without_a_vector_on_one_side_nothing_is_left() -> None:
    rows = np.eye(3)
    for target, source in ((0 * rows, rows), (rows, 0 * rows)):
        mixture = wechsel(target, source, rows, rows, specials=NO_PAIRS)
        assert mixture.provenance.tolist() == [RANDOM] * 3


@pytest.fixture(scope="module")
def sides() -> tuple[StaticVectors, StaticVectors]:
    def trained(*words: str) -> StaticVectors:
        text = [list(words)] * 3
        return train_static_vectors(text, architecture="cbow", width=4, epochs=1, min_count=1, buckets=100, seed=1)

    return trained("house", "House", "paris", "dog"), trained("rumah", "Paris", "paris", "kucing")


def test_a_dictionary_pair_counts_in_each_of_its_forms(sides: tuple[StaticVectors, StaticVectors]) -> None:
    source, target = sides
    X, Y = dictionary_vectors([("house", "rumah"), ("cat", "kucing"), ("Paris", "Paris")], source, target)
    # house = house.lower() and House on the left, rumah = rumah.lower() on the right: 3 x 2; nothing for cat;
    # of Paris only paris is on the left: 1, with Paris, paris and Paris.
    words = ["house"] * 4 + ["House"] * 2 + ["paris"] * 3
    translations = ["rumah"] * 6 + ["Paris", "paris", "Paris"]
    np.testing.assert_array_equal(X, source.of(words)[0])
    np.testing.assert_array_equal(Y, target.of(translations)[0])


def test_refuses_a_dictionary_of_other_words(sides: tuple[StaticVectors, StaticVectors]) -> None:
    with pytest.raises(DataError, match="wechsel: expected dictionary entries of which both words occur in the text"):
        dictionary_vectors([("cat", "kucing"), ("dog", "anjing")], *sides)


def test_entries_are_looked_up_by_their_surface(sides: tuple[StaticVectors, StaticVectors]) -> None:
    source, _ = sides
    rows = entry_vectors(
        [Surface("house", True), Surface("house", False), Surface(None, True), Surface("", True)], source
    )
    np.testing.assert_array_equal(rows[0], source.of(["house"])[0][0])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not rows[2:].any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"source": np.ones((2, 4))}, r"four arrays of vectors of one width, found \(2, 3\), \(2, 4\)"),
        ({"target": np.ones(3)}, "four arrays of vectors of one width"),
        ({"target_words": np.ones((3, 3))}, "as many target words as source words, and some"),
        ({"target": np.full((2, 3), np.nan)}, "finite vectors, found NaN or infinity"),
    ],
)
def test_refuses_vectors_that_do_not_fit(changed: dict[str, Array], words: str) -> None:
    rows = dict.fromkeys(("target", "source", "target_words", "source_words"), np.ones((2, 3))) | changed
    with pytest.raises(ValueError, match=f"wechsel: expected {words}"):
        wechsel(*rows.values(), specials=NO_PAIRS)


def test_refuses_an_empty_dictionary() -> None:
    with pytest.raises(ValueError, match="as many target words as source words, and some"):
        wechsel(np.ones((2, 3)), np.ones((2, 3)), np.ones((0, 3)), np.ones((0, 3)), specials=NO_PAIRS)


@pytest.mark.parametrize("settings", [{"neighbours": 0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_refuses_settings_out_of_range(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected neighbours and temperature above 0"):
        wechsel(*[np.eye(2)] * 4, specials=NO_PAIRS, **settings)  # type: ignore[misc, arg-type]
