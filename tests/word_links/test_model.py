"""The vectorised link model against a plain-Python one and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_links import Oracle, Sentences, assert_same_links, corpora, lists, translated
from scipy.special import digamma

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError
from trelm.word_links import cells
from trelm.word_links import model as model_module
from trelm.word_links.cells import Shapes
from trelm.word_links.model import (
    FIRST_TENSION,
    FLOOR,
    TENSION_RANGE,
    best_links,
    fit_tension,
    log_partition,
    normalise_counts,
    train_direction,
)


@settings(max_examples=60, deadline=None)
@given(pairs=corpora, iterations=st.integers(1, 4))
def test_a_direction_equals_the_plain_one(pairs: list[tuple[list[int], list[int]]], iterations: int) -> None:
    x, y = [list(part) for part in zip(*pairs)]
    model = train_direction(Ragged.of(x), Ragged.of(y), iterations=iterations)
    oracle = Oracle(x, y, iterations)
    for (e, f), probability in oracle.table.items():
        assert model.probability(e, f) == pytest.approx(probability, abs=1e-4)
    assert model.null_probabilities == pytest.approx(list(oracle.null.values()), abs=1e-4)
    assert model.tension == pytest.approx(oracle.tension, abs=1e-2)
    assert model.log_likelihoods == pytest.approx(oracle.likelihoods, abs=1e-4)
    assert_same_links(oracle, x, y, lists(best_links(model, Ragged.of(x), Ragged.of(y))))


def test_one_step_on_two_pairs_by_hand() -> None:
    """Pairs of one word: the prior is 0.92 for the only cell and 0.08 for nothing, whatever the tension."""
    model = train_direction(Ragged.of([[0], [1]]), Ragged.of([[0], [1]]), iterations=1)
    expected = math.exp(digamma(0.93) - digamma(0.93))
    assert model.probability(0, 0) == pytest.approx(expected)
    assert model.null_probabilities == pytest.approx([math.exp(digamma(0.09) - digamma(0.18))] * 2)
    assert model.log_likelihoods == pytest.approx((math.log(0.5),))
    assert model.probability(0, 1) == pytest.approx(FLOOR)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1)), min_size=1, max_size=5),
    tension=st.floats(0.1, 14.0),
)
def test_the_partition_function_is_the_sum(shapes: list[tuple[int, int, float]], tension: float) -> None:
    triples = np.asarray([(n, m, 1 + int(part * (m - 1))) for n, m, part in shapes]).T
    found, slope = log_partition(tension, Shapes(*triples))
    for k, (n, m, j) in enumerate(triples.T):
        features = -np.abs(np.arange(1, n + 1) / n - j / m)
        weights = np.exp(tension * features)
        assert found[k] == pytest.approx(math.log(weights.sum()), abs=1e-9)
        assert slope[k] == pytest.approx((weights * features).sum() / weights.sum(), abs=1e-9)


@given(tension=st.floats(0.2, 13.0))
def test_the_tension_gradient_is_the_finite_difference(tension: float) -> None:
    shapes = Shapes(np.asarray([5, 9, 1]), np.asarray([7, 4, 3]), np.asarray([3, 4, 2]))
    below, above = (log_partition(tension + step, shapes)[0] for step in (-1e-4, 1e-4))
    assert log_partition(tension, shapes)[1] == pytest.approx((above - below) / 2e-4, abs=1e-6)


def test_the_tension_moves_to_the_one_that_made_the_posterior() -> None:
    shapes = Shapes(np.asarray([20]), np.asarray([20]), np.asarray([10]))
    linked = np.asarray([3.0])
    feature = 3.0 * float(log_partition(6.0, shapes)[1][0])
    tension = 4.0
    for _ in range(40):
        tension = fit_tension(tension, feature, linked, shapes)
    assert tension == pytest.approx(6.0, abs=1e-3)


@pytest.mark.parametrize(("feature", "bound"), [(0.0, TENSION_RANGE[1]), (-3.0, TENSION_RANGE[0])])
def test_the_tension_stays_in_its_range(feature: float, bound: float) -> None:
    """All links on the diagonal, or all as far from it as can be."""
    shapes = Shapes(np.asarray([20]), np.asarray([20]), np.asarray([10]))
    assert fit_tension(4.0, feature, np.asarray([3.0]), shapes) == pytest.approx(bound)


def test_the_tension_does_not_move_where_nothing_is_linked() -> None:
    shapes = Shapes(np.asarray([20]), np.asarray([20]), np.asarray([10]))
    assert fit_tension(4.0, 0.0, np.asarray([0.0]), shapes) == 4.0


def test_the_first_iteration_keeps_the_tension() -> None:
    source, target, _ = translated(50, reverse=False)
    tensions = [train_direction(Ragged.of(source), Ragged.of(target), iterations=n).tension for n in (1, 2)]
    assert tensions[0] == FIRST_TENSION
    assert tensions[1] > FIRST_TENSION


def test_counts_normalise_by_row() -> None:
    counts = np.asarray([2.0, 0.0, 5.0])
    table = normalise_counts(counts, np.asarray([0, 2]))
    assert table[0] == pytest.approx(math.exp(digamma(2.01) - digamma(2.02)), rel=1e-5)
    assert table[1] == pytest.approx(FLOOR)
    assert table[2] == pytest.approx(1.0)


def test_the_likelihood_rises_and_runs_agree() -> None:
    source, target, _ = translated(100, reverse=False)
    first, second = (train_direction(Ragged.of(source), Ragged.of(target)) for _ in range(2))
    assert list(first.log_likelihoods) == sorted(first.log_likelihoods)
    assert np.array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize("slice_size", [1, 3, 1000])
def test_tables_are_normalised_slice_by_slice_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, slice_size: int
) -> None:
    rng = np.random.default_rng(0)
    counts, starts = rng.exponential(size=100), np.asarray([0, 1, 40, 41, 99])
    table = counts + 0.01
    rows = np.repeat(digamma(np.add.reduceat(table, starts)), np.diff(starts, append=100))
    whole = np.maximum(np.exp(digamma(table) - rows), FLOOR).astype(np.float32)
    monkeypatch.setattr(model_module, "SLICE", slice_size)
    for threads in (1, 3):
        assert normalise_counts(counts, starts, threads).tobytes() == whole.tobytes()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    source, target, _ = translated(60, reverse=False)
    text, other = (Ragged.of(source), Ragged.of(target)), (Ragged.of(target), Ragged.of(source))
    monkeypatch.setattr(cells, "CHUNK_CELLS", 40)
    monkeypatch.setattr(cells, "BLOCK_CELLS", 12)
    alone, together = train_direction(*text), train_direction(*text, threads=threads)
    assert together.probabilities.tobytes() == alone.probabilities.tobytes()
    assert together.null_probabilities.tobytes() == alone.null_probabilities.tobytes()
    assert (together.tension, together.log_likelihoods) == (alone.tension, alone.log_likelihoods)
    for sides in (text, other):
        assert lists(best_links(together, *sides, threads)) == lists(best_links(alone, *sides))


@pytest.mark.parametrize("size", [1, 7, 50])
def test_small_chunks_train_the_same_model(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    source, target, _ = translated(20, reverse=False)
    text = Ragged.of(source), Ragged.of(target)
    whole = train_direction(*text)
    monkeypatch.setattr(cells, "CHUNK_CELLS", size)
    monkeypatch.setattr(cells, "BLOCK_CELLS", max(1, size // 2))
    parts = train_direction(*text)
    assert np.array_equal(whole.keys, parts.keys)
    assert parts.probabilities == pytest.approx(whole.probabilities, abs=1e-4)
    assert parts.null_probabilities == pytest.approx(whole.null_probabilities, abs=1e-4)
    assert parts.log_likelihoods == pytest.approx(whole.log_likelihoods, abs=1e-4)
    assert lists(best_links(parts, *text)) == lists(best_links(whole, *text))


def test_pairs_with_an_empty_side_say_nothing() -> None:
    source, target, _ = translated(20, reverse=False)
    model = train_direction(Ragged.of(source), Ragged.of(target))
    more = train_direction(Ragged.of([[], *source, [3]]), Ragged.of([[900], *target, []]))
    assert np.array_equal(model.keys // len(model.null_probabilities), more.keys // len(more.null_probabilities))
    assert np.array_equal(model.probabilities, more.probabilities)
    assert model.log_likelihoods == more.log_likelihoods


def test_each_iteration_is_told() -> None:
    told: list[int] = []
    train_direction(Ragged.of([[0]]), Ragged.of([[0]]), iterations=3, on_step=lambda: told.append(len(told)))
    assert told == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(
    pairs=corpora,
    held_out=st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=5)] * 2), max_size=4),
)
def test_held_out_text_with_unknown_words_is_linked_as_by_the_plain_model(
    pairs: list[tuple[list[int], list[int]]], held_out: list[tuple[list[int], list[int]]]
) -> None:
    x, y = [list(part) for part in zip(*pairs)]
    model = train_direction(Ragged.of(x), Ragged.of(y), iterations=2)
    new_x, new_y = [source for source, _ in held_out], [target for _, target in held_out]
    links = lists(best_links(model, Ragged.of(new_x), Ragged.of(new_y)))
    assert [len(row) for row in links] == [len(row) for row in new_y]
    assert_same_links(Oracle(x, y, 2), new_x, new_y, links)


def test_unknown_words_are_linked_along_the_diagonal() -> None:
    """All their cells and the null word have the least probability, so the prior decides."""
    model = train_direction(Ragged.of([[0], [1]]), Ragged.of([[0], [1]]))
    assert lists(best_links(model, Ragged.of([[5, 6, 7]]), Ragged.of([[8, 9, 10]]))) == [[0, 1, 2]]


@pytest.mark.parametrize(("text", "links"), [(([], []), []), (([[0], []], [[], [1, 0]]), [[], [-1, -1]])])
def test_held_out_text_without_pairs_has_no_links(text: tuple[Sentences, Sentences], links: Sentences) -> None:
    model = train_direction(Ragged.of([[0]]), Ragged.of([[0]]))
    assert lists(best_links(model, Ragged.of(text[0]), Ragged.of(text[1]))) == links


def test_sides_of_different_length_are_refused() -> None:
    message = "expected as many source as target sentences, found 2 and 1; give them pair by pair"
    with pytest.raises(DataError, match=message):
        train_direction(Ragged.of([[0], [1]]), Ragged.of([[0]]))
    model = train_direction(Ragged.of([[0]]), Ragged.of([[0]]))
    with pytest.raises(DataError, match=message):
        best_links(model, Ragged.of([[0], [1]]), Ragged.of([[0]]))


def test_training_on_nothing_is_refused() -> None:
    message = "expected a pair with text on both sides, found 2 pairs, none of them such; give parallel text"
    with pytest.raises(DataError, match=message):
        train_direction(Ragged.of([[0], []]), Ragged.of([[], [1]]))


def test_training_without_iterations_is_refused() -> None:
    with pytest.raises(DataError, match="expected iterations of 1 or more, found 0; give a positive number"):
        train_direction(Ragged.of([[0]]), Ragged.of([[0]]), iterations=0)
