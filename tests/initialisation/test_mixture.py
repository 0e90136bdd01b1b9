"""Mixtures of source rows: that they are convex, lie over each other in order, and make today's table."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from plain_tables import plain_table
from scipy.sparse import csr_matrix

from trelm.initialisation import (
    PROVENANCES,
    Initialisation,
    Mixture,
    SourceTables,
    assemble,
    complete,
    counts,
    from_pairs,
    multivariate_rows,
    normalised,
    nothing,
    one_hot,
    overlay,
    random_rows,
    restricted,
)
from trelm.initialisation.mixture import LINKED, MAPPED, NEIGHBOURS, PIECES, RANDOM, SHARED, SPECIAL, through

ROWS, SOURCE_ROWS = 7, 5
RANDOM_NUMBERS = np.random.default_rng(3)
WORDS = RANDOM_NUMBERS.normal(1.0, 2.0, (SOURCE_ROWS, 4)).astype(np.float32)
OUTPUTS = RANDOM_NUMBERS.normal(-1.0, 0.5, (SOURCE_ROWS, 3)).astype(np.float32)
BIAS = np.array([1, 2, 4, 8, 16], dtype=np.float32)
TABLES = SourceTables(WORDS, OUTPUTS, BIAS)

weights_given = arrays(
    np.float64,
    (ROWS, SOURCE_ROWS),
    elements=st.one_of(st.just(0.0), st.floats(1e-3, 1e3), st.integers(0, 9).map(float)),
)
row_flags = arrays(np.bool_, ROWS)


def mixture_of(weights: np.ndarray, provenance: int = LINKED) -> Mixture:
    return normalised(csr_matrix(weights), provenance)


def test_the_first_five_codes_are_those_that_tables_on_disk_have():
    assert PROVENANCES[:5] == ("special", "linked", "shared", "mapped", "random")
    assert tuple(range(len(PROVENANCES))) == (SPECIAL, LINKED, SHARED, MAPPED, RANDOM, PIECES, NEIGHBOURS)


def test_rows_are_divided_by_their_sums_worked_by_hand():
    mixture = mixture_of(np.array([[1.0, 3.0], [0.0, 0.0], [0.0, 5.0]]))
    assert mixture.weights.toarray().tolist() == [[0.25, 0.75], [0, 0], [0, 1]]
    assert mixture.provenance.tolist() == [LINKED, RANDOM, LINKED]
    assert mixture.provenance.dtype == np.int8
    assert mixture.covered.tolist() == [True, False, True]
    assert mixture.counts == dict.fromkeys(PROVENANCES, 0) | {"linked": 2, "random": 1}
    np.testing.assert_array_equal(mixture.of(np.array([[4, 0], [8, 1]], np.float32)), [[7, 0.75], [0, 0], [8, 1]])


@given(weights_given)
def test_normalised_rows_are_convex_and_keep_their_ratios(weights):
    before = weights.copy()
    mixture = mixture_of(weights)
    dense = mixture.weights.toarray()
    has_any = weights.any(axis=1)
    np.testing.assert_array_equal(mixture.covered, has_any)
    np.testing.assert_allclose(dense.sum(axis=1), has_any.astype(float), atol=1e-12)
    np.testing.assert_allclose(dense * weights.sum(axis=1, keepdims=True), weights, rtol=1e-12)
    np.testing.assert_array_equal(weights, before)
    mixed = mixture.of(WORDS)[has_any]
    assert (mixed <= WORDS.max(axis=0) * (1 + 1e-6) + 1e-6).all()
    assert (mixed >= WORDS.min(axis=0) - np.abs(WORDS.min(axis=0)) * 1e-6 - 1e-6).all()


@given(weights_given, weights_given, weights_given)
def test_overlaid_rows_are_those_of_the_first_mixture_that_has_one(first, second, third):
    codes = (SPECIAL, LINKED, SHARED)
    mixtures = [mixture_of(weights, code) for weights, code in zip((first, second, third), codes)]
    together = overlay(*mixtures)
    for row in range(ROWS):
        winners = [mixture for mixture in mixtures if mixture.weights.toarray()[row].any()]
        expected = winners[0].weights.toarray()[row] if winners else np.zeros(SOURCE_ROWS)
        np.testing.assert_array_equal(together.weights.toarray()[row], expected)
        assert together.provenance[row] == (winners[0].provenance[row] if winners else RANDOM)
    assert together.weights.nnz == (together.weights.toarray() > 0).sum()


@given(weights_given, row_flags)
def test_a_restricted_mixture_is_empty_elsewhere(weights, rows):
    mixture = mixture_of(weights)
    kept = restricted(mixture, rows)
    np.testing.assert_array_equal(kept.weights.toarray(), mixture.weights.toarray() * rows[:, None])
    np.testing.assert_array_equal(kept.covered, mixture.covered & rows)


def test_copies_are_the_source_rows_to_the_bit_and_the_last_of_two_counts():
    mixture = one_hot(np.array([[3, 0], [1, 4], [3, 2]]), (ROWS, SOURCE_ROWS), SHARED)
    np.testing.assert_array_equal(mixture.of(WORDS)[[1, 3]], WORDS[[4, 2]])
    assert np.flatnonzero(mixture.covered).tolist() == [1, 3]


def test_pairs_given_twice_add_up():
    pairs = np.array([[0, 1], [0, 2], [0, 1]])
    mixture = from_pairs(pairs, np.array([1, 6, 1]), (2, 3), PIECES)
    assert mixture.weights.toarray().tolist() == [[0, 0.25, 0.75], [0, 0, 0]]


def test_a_source_table_may_have_more_rows_than_its_tokenizer():
    mixture = one_hot(np.array([[0, 1]]), (1, 2), SHARED)
    np.testing.assert_array_equal(mixture.of(WORDS), WORDS[[1]])


def test_complete_fills_the_words_the_outputs_and_the_bias_by_one_mixture():
    mixture = from_pairs(np.array([[0, 1], [0, 2], [2, 4]]), np.array([1.0, 3.0, 2.0]), (3, SOURCE_ROWS), PIECES)
    made = complete(mixture, TABLES, 5)
    assert made.outputs is not None
    assert made.bias is not None
    for table, rows in ((WORDS, made.words), (OUTPUTS, made.outputs)):
        np.testing.assert_allclose(rows[0], table[1] / 4 + table[2] * 3 / 4, rtol=1e-6)
        np.testing.assert_array_equal(rows[2], table[4])
        np.testing.assert_array_equal(rows[1], random_rows(3, table, 5)[1])
        assert rows.dtype == np.float32
    np.testing.assert_allclose(made.bias, [0.25 * 2 + 0.75 * 4, BIAS.mean(), 16], rtol=1e-6)
    assert made.bias.dtype == np.float32
    assert made.provenance.tolist() == [PIECES, RANDOM, PIECES]
    assert made.counts["pieces"] == 2


def test_without_a_head_or_an_output_table_there_is_neither():
    made = complete(nothing((4, SOURCE_ROWS)), SourceTables(WORDS, None, None), 1, fallback="multivariate")
    assert made.outputs is None
    assert made.bias is None
    np.testing.assert_array_equal(made.words, multivariate_rows(4, WORDS, 1))
    assert made.counts["random"] == 4


def test_each_fallback_draws_all_rows_of_an_empty_mixture():
    for fallback, draw in (("random", random_rows), ("multivariate", multivariate_rows)):
        made = complete(nothing((9, SOURCE_ROWS)), TABLES, 2, fallback=fallback)
        np.testing.assert_array_equal(made.words, draw(9, WORDS, 2))
        np.testing.assert_array_equal(made.outputs, draw(9, OUTPUTS, 2))
        np.testing.assert_allclose(made.bias, np.full(9, BIAS.mean()), rtol=1e-6)


pairs_given = st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, SOURCE_ROWS - 1)), max_size=8, unique=True)


def as_pairs(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


@given(pairs_given, pairs_given, pairs_given, row_flags, st.booleans(), st.integers(0, 99), st.data())
def test_an_overlay_makes_exactly_the_table_written_out(special, link, alike, has_vector, copy_shared, seed, data):
    shape = (ROWS, SOURCE_ROWS)
    drawn = data.draw(st.lists(st.integers(1, 40), min_size=len(link), max_size=len(link)))
    link_counts = np.array(drawn, dtype=np.float32)
    mapped = np.random.default_rng(seed).normal(size=(ROWS, 4)).astype(np.float32)
    mapped[~has_vector] = np.nan
    options = {
        "has_vector": has_vector,
        "shared": as_pairs(alike),
        "specials": as_pairs(special),
        "copy_shared": copy_shared,
        "links": as_pairs(link),
        "link_counts": link_counts,
        "seed": seed,
    }
    copies = [one_hot(as_pairs(alike), shape, SHARED)] if copy_shared else []
    linked = counts(as_pairs(link), link_counts, shape)
    mixture = overlay(one_hot(as_pairs(special), shape, SPECIAL), linked, *copies)
    made = assemble(mixture, TABLES, seed, mapped=mapped, has_vector=has_vector)
    expected, provenance = plain_table(mapped, source_table=WORDS, **options)
    np.testing.assert_array_equal(made.words, expected)
    np.testing.assert_array_equal(made.provenance, provenance)
    finite = np.where(has_vector[:, None], mapped, 0)
    output, _ = plain_table(through(finite, WORDS, OUTPUTS), source_table=OUTPUTS, **options)
    np.testing.assert_array_equal(made.outputs, output)


def test_means_that_lie_midway_between_two_floats_are_rounded_as_by_one_division():
    """Half-precision tables and small counts: ties abound, and weights that are no binary fractions must not sway."""
    random = np.random.default_rng(0)
    table = random.normal(size=(40, 64)).astype(np.float16).astype(np.float32)
    pairs = np.unique(random.integers(0, 40, (300, 2)), axis=0)
    link_counts = random.integers(1, 9, len(pairs)).astype(np.float32)
    none = np.zeros((0, 2), dtype=np.int64)
    expected, _ = plain_table(
        np.zeros((40, 64), np.float32),
        np.ones(40, np.bool_),
        table,
        shared=none,
        specials=none,
        copy_shared=True,
        seed=0,
        links=pairs,
        link_counts=link_counts,
    )
    linked = counts(pairs, link_counts, (40, 40))
    np.testing.assert_array_equal(linked.of(table)[linked.covered], expected[linked.covered])


def test_the_bias_of_a_mapped_row_is_the_mean():
    mapped, has_vector = np.ones((2, 4), np.float32), np.array([True, True])
    copy = one_hot(np.array([[0, 3]]), (2, SOURCE_ROWS), SHARED)
    made = assemble(copy, TABLES, 0, mapped=mapped, has_vector=has_vector)
    np.testing.assert_allclose(made.bias, [8, BIAS.mean()], rtol=1e-6)
    assert made.provenance.tolist() == [SHARED, MAPPED]


def refused(message: str) -> pytest.RaisesExc:
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("weights", "provenance", "message"),
    [
        ([[1.0]], [1, 1], "mixture: expected a provenance for each of 1 rows, found shape (2,)"),
        ([[-1.0, 2.0]], [1], "mixture: expected finite weights of 0 or more, found others"),
        ([[np.nan]], [1], "mixture: expected finite weights of 0 or more, found others"),
        ([[0.5, 0.4]], [1], "mixture: expected rows that sum to 1 or are empty, found another sum"),
        (
            [[1.0]],
            [RANDOM],
            "mixture: expected the provenance 'random' for empty rows and no others, found it elsewhere",
        ),
        ([[0.0]], [1], "mixture: expected the provenance 'random' for empty rows and no others, found it elsewhere"),
    ],
)
def test_what_is_no_mixture_is_refused(weights, provenance, message):
    with refused(message):
        Mixture(csr_matrix(np.array(weights)), np.array(provenance, dtype=np.int8))


@pytest.mark.parametrize("weight", [-1.0, np.inf, np.nan])
def test_weights_that_are_none_are_refused(weight):
    with refused("mixture: expected finite weights of 0 or more, found others"):
        mixture_of(np.array([[weight, 1.0]]))


def test_pairs_outside_the_shape_are_refused():
    message = "{}: expected pairs of a row below 2 and a source row below 3"
    for pair in ([2, 0], [0, 3], [-1, 0]):
        with refused(message.format("one_hot")):
            one_hot(np.array([pair]), (2, 3), SHARED)
        with refused(message.format("from_pairs")):
            from_pairs(np.array([pair]), np.ones(1), (2, 3), SHARED)
    with refused("from_pairs: expected 1 weights, found shape (2,)"):
        from_pairs(np.array([[0, 0]]), np.ones(2), (2, 3), SHARED)


def test_tables_that_do_not_fit_are_refused():
    with refused("overlay: expected mixtures of one shape, found (2, 3) and (2, 4)"):
        overlay(nothing((2, 3)), nothing((2, 4)))
    with refused("mixture: expected a source table of 6 rows, found 5"):
        nothing((2, 6)).of(WORDS)
    with refused("source tables: expected 5 rows in each, found 5, 4"):
        complete(nothing((2, 5)), SourceTables(WORDS, OUTPUTS, BIAS[:4]), 0)


def test_mapped_vectors_that_do_not_fit_are_refused():
    mixture, flags = nothing((2, SOURCE_ROWS)), np.ones(2, np.bool_)
    with refused("assemble: expected mapped (2, 4) and has_vector (2,), found (2, 3) and (2,)"):
        assemble(mixture, TABLES, 0, mapped=np.zeros((2, 3), np.float32), has_vector=flags)
    with refused("assemble: expected finite mapped vectors, found NaN or infinity; the alignment has diverged"):
        assemble(mixture, TABLES, 0, mapped=np.full((2, 4), np.nan, np.float32), has_vector=flags)


def test_an_initialisation_is_saved_and_loaded(tmp_path):
    copy = one_hot(np.array([[0, 3]]), (3, SOURCE_ROWS), SHARED)
    made = complete(copy, TABLES, 1)
    made.save(tmp_path)
    loaded = Initialisation.load(tmp_path)
    for name in ("words", "outputs", "bias", "provenance"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(made, name))
    assert json.loads((tmp_path / "provenance.json").read_text())["counts"] == made.counts
    without = complete(copy, SourceTables(WORDS, None, None), 1)
    without.save(tmp_path)
    assert Initialisation.load(tmp_path).outputs is None
    assert Initialisation.load(tmp_path).bias is None
