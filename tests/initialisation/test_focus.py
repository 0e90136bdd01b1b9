"""FOCUS against its formula, row by row, and against examples worked by hand."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trelm.initialisation.focus import focus, overlap
from trelm.initialisation.mixture import NEIGHBOURS, RANDOM, SHARED, SPECIAL, Mixture
from trelm.initialisation.sparsemax import sparsemax
from trelm.initialisation.surface import Surface

NO_PAIRS = np.zeros((0, 2), dtype=np.int64)


def pairs(*rows: tuple[int, int]) -> NDArray[np.int64]:
    return np.array(rows, dtype=np.int64).reshape(-1, 2)


def row_by_row(
    vectors: NDArray[np.float32],
    has_vector: NDArray[np.bool_],
    shared: NDArray[np.int64],
    specials: NDArray[np.int64],
    source_size: int,
) -> NDArray[np.float64]:
    """The formula, one entry at a time, dense."""
    weights = np.zeros((len(vectors), source_size))
    copied = {**dict(shared.tolist()), **dict(specials.tolist())}
    landmarks = [(o, e) for o, e in shared.tolist() if has_vector[o] and o not in set(specials[:, 0].tolist())]
    for n in range(len(vectors)):
        if n in copied:
            weights[n, copied[n]] = 1
        elif has_vector[n] and landmarks:
            a = vectors[n].astype(np.float64)
            scores = [a @ vectors[o] / np.linalg.norm(a) / np.linalg.norm(vectors[o]) for o, _ in landmarks]
            for (_, e), w in zip(landmarks, sparsemax(np.array(scores))):
                weights[n, e] += w
    return weights


@given(st.integers(0, 10_000), st.integers(1, 60))
def test_equals_the_formula_row_by_row(seed: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    V, source_size = rng.integers(1, 14), int(rng.integers(1, 9))
    vectors = rng.normal(size=(V, 3)).astype(np.float32)
    has_vector = rng.random(V) < 0.8
    entries = rng.permutation(V)
    rows = np.stack([entries, rng.integers(0, source_size, V)], axis=1)
    specials, shared = rows[: V // 4], np.sort(rows[V // 5 : V // 2], axis=0)
    mixture = focus(vectors, has_vector, shared, specials=specials, source_size=source_size, cells=cells)
    expected = row_by_row(vectors, has_vector, shared, specials, source_size)
    np.testing.assert_allclose(mixture.weights.toarray(), expected, atol=1e-6)


@pytest.fixture
def small() -> Mixture:
    # Entry 0 is special, 1, 2 and 6 are shared (6 has no vector), 3 is like 1, 4 is between 1 and 2, 5 has no vector.
    vectors = np.array([[9, 9], [1, 0], [0, 2], [5, 0], [1, 1], [0, 0], [np.nan, 0]], dtype=np.float32)
    has_vector = np.array([True, True, True, True, True, False, False])
    return focus(vectors, has_vector, pairs((1, 3), (2, 4), (6, 5)), specials=pairs((0, 2)), source_size=6)


def test_each_row_comes_from_where_it_should(small: Mixture) -> None:
    assert small.provenance.tolist() == [SPECIAL, SHARED, SHARED, NEIGHBOURS, NEIGHBOURS, RANDOM, SHARED]


def test_the_hand_worked_example(small: Mixture) -> None:
    expected = np.zeros((7, 6))
    expected[[0, 1, 2, 3, 6], [2, 3, 4, 3, 5]] = 1  # cosines 1 and 0: sparsemax takes the first alone
    expected[4, [3, 4]] = 0.5
    np.testing.assert_allclose(small.weights.toarray(), expected, atol=1e-7)


def test_the_length_of_a_vector_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(9, 4)).astype(np.float32)
    has_vector, shared = np.ones(9, dtype=np.bool_), pairs((0, 0), (1, 1), (2, 2))
    scaled = vectors * rng.uniform(0.1, 10, size=(9, 1)).astype(np.float32)
    first, second = (focus(v, has_vector, shared, specials=NO_PAIRS, source_size=3) for v in (vectors, scaled))
    np.testing.assert_allclose(first.weights.toarray(), second.weights.toarray(), atol=1e-6)


def test_without_an_entry_in_common_nothing_is_left_but_the_specials() -> None:
    vectors = np.ones((3, 2), dtype=np.float32)
    mixture = focus(vectors, np.ones(3, dtype=np.bool_), NO_PAIRS, specials=pairs((1, 0)), source_size=2)
    assert mixture.provenance.tolist() == [RANDOM, SPECIAL, RANDOM]


def test_the_memory_does_not_grow_with_the_vocabulary() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(4_000, 4)).astype(np.float32)
    shared = np.stack([np.arange(1_000), np.arange(1_000)], axis=1)
    tracemalloc.start()
    focus(vectors, np.ones(4_000, dtype=np.bool_), shared, specials=NO_PAIRS, source_size=1_000, cells=50_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000 * 1_000 * 8 / 2  # all cosines at once, and nothing else, would be twice as much


def test_the_overlap_is_of_one_text_at_one_place_in_a_word() -> None:
    ours = [Surface(None, True), Surface("a", True), Surface("a", False), Surface("b", False), Surface("", True)]
    theirs = [Surface("b", True), Surface("a", False), Surface("a", True), Surface("a", True), Surface(None, True)]
    assert overlap(ours, [*theirs, Surface("", True)]).tolist() == [[1, 2], [2, 1], [4, 5]]
    assert overlap(ours, []).shape == (0, 2)


def test_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"focus: expected vectors \[V, k\] and has_vector \[V\], found \(3, 2\), \(2,\)"
    ):
        focus(np.ones((3, 2), np.float32), np.ones(2, np.bool_), NO_PAIRS, specials=NO_PAIRS, source_size=1)


@pytest.mark.parametrize("bad", [[np.nan, 1], [0, 0]])
def test_refuses_vectors_without_a_direction(bad: list[float]) -> None:
    vectors = np.array([[1, 1], bad], dtype=np.float32)
    with pytest.raises(ValueError, match="focus: expected finite vectors with a direction"):
        focus(vectors, np.ones(2, np.bool_), NO_PAIRS, specials=NO_PAIRS, source_size=1)
