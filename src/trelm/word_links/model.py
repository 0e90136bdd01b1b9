"""IBM model 2 with a diagonal prior (Dyer et al. 2013), in one direction.

A direction explains each position of an *output* sentence by one position of the *input* sentence, or by nothing:
forward is p(target | source), reverse is p(source | target). METHOD section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError, data_error
from trelm.word_links.cells import (
    Cells,
    Chunk,
    FloatArray,
    IntArray,
    Part,
    Rows,
    Shapes,
    block_views,
    find_keys,
    first_of_run,
    in_order,
    number_keys,
)

NULL_PROBABILITY = 0.08  # p0 of Dyer et al. 2013
CONCENTRATION = 0.01  # Dirichlet alpha of the translation table
FIRST_TENSION = 4.0
TENSION_RANGE = (0.1, 14.0)
TENSION_STEPS = 8
TENSION_RATE = 20.0
FLOOR = 1e-9  # least translation probability: of type pairs never seen together, and of those that training ruled out
SLICE = 1 << 18  # entries of a translation table that are normalised at once

_Piece = TypeVar("_Piece")


@dataclass(frozen=True)
class LinkModel:
    """One direction, trained: p(output | input).

    Attributes:
        keys: int64 [P], ascending, `input id * output_size + output id` of the type pairs seen together.
        probabilities: float32 [P], t(output id | input id); pairs not in `keys` have `FLOOR`.
        null_probabilities: float32 [output_size], t(output id | nothing).
        tension: lambda of the diagonal prior.
        log_likelihoods: mean natural log-likelihood of an output position, at the start of each iteration.
    """

    keys: IntArray
    probabilities: NDArray[np.float32]
    null_probabilities: NDArray[np.float32]
    tension: float
    log_likelihoods: tuple[float, ...]

    def probability(self, input_id: int, output_id: int) -> float:
        """t(output id | input id)."""
        at = find_keys(self.keys, np.asarray([input_id * len(self.null_probabilities) + output_id], dtype=np.int64))[0]
        return float(self.probabilities[at]) if at < len(self.keys) else FLOOR


def train_direction(
    given: Ragged,
    output: Ragged,
    *,
    iterations: int = 5,
    threads: int = 1,
    on_step: Callable[[], None] | None = None,
) -> LinkModel:
    """Train p(output | given) by variational Bayes (Dyer et al. 2013, sections 2 and 3).

    Pairs with an empty side say nothing and are left out. Memory: 4 bytes a cell (an output position and a position of
    its input), 32 bytes a type pair seen together, 4 more for each chunk that it is in, and the temporary arrays of one
    chunk for each thread. The number of threads changes nothing in the result.

    Raises:
        DataError: the sides differ in length, every pair has an empty side, or `iterations` is below 1.
    """
    check_text(given, output, iterations, None)
    return train(Cells.of(given, output, threads), iterations, on_step, threads)


def train(cells: Cells, iterations: int, on_step: Callable[[], None] | None, threads: int = 1) -> LinkModel:
    """As `train_direction`, on text that is numbered already."""
    size, keys = cells.output_size, cells.keys
    probabilities = np.full(len(keys), 1 / size, dtype=np.float32)
    null_probabilities = np.full(size, 1 / size, dtype=np.float32)
    row_starts = np.flatnonzero(first_of_run(keys // size))
    tension, log_likelihoods = FIRST_TENSION, []
    for iteration in range(iterations):
        expected = _expect(cells, probabilities, null_probabilities, tension, threads)
        if iteration > 0:  # the first posteriors know no translations: they would fit the tension to itself
            tension = fit_tension(tension, expected.feature, expected.linked, cells.rows.shapes)
        probabilities = normalise_counts(expected.counts, row_starts, threads)
        null_probabilities = normalise_counts(expected.null_counts, np.zeros(1, dtype=np.int64))
        log_likelihoods.append(expected.log_likelihood / len(cells.rows.outputs))
        if on_step is not None:
            on_step()
    return LinkModel(keys, probabilities, null_probabilities, tension, tuple(log_likelihoods))


def best_links(model: LinkModel, given: Ragged, output: Ragged, threads: int = 1) -> Ragged:
    """For every output position its most probable position in `given`, or -1 where nothing is at least as probable.

    Raises:
        DataError: the sides differ in length.
    """
    _check_lengths(given, output)
    rows = Rows.of(given, output)
    table = np.append(model.probabilities, np.float32(FLOOR))

    def with_probabilities(chunk: Chunk) -> tuple[Chunk, NDArray[np.float32]]:
        keys, inverse = number_keys(rows.keys(chunk, len(model.null_probabilities)))
        return chunk, table[find_keys(model.keys, keys)[inverse]]

    return _decode(rows, model, with_probabilities, rows.chunks(), output, threads)


def decode(cells: Cells, model: LinkModel, output: Ragged, threads: int = 1) -> Ragged:
    """As `best_links`, of the text that the model was trained on, which is numbered already."""

    def with_probabilities(part: Part) -> tuple[Chunk, NDArray[np.float32]]:
        return part.chunk, part.cells_of(model.probabilities)

    return _decode(cells.rows, model, with_probabilities, cells.parts, output, threads)


def fit_tension(tension: float, feature: float, linked: FloatArray, shapes: Shapes) -> float:
    """Gradient ascent of the expected log-prior in the tension (Dyer et al. 2013, section 3.2).

    Positions that are explained by nothing are left out of both terms of the gradient (fast_align counts them in the
    second one).

    Args:
        feature: sum over linked positions of -|i/n - j/m|, expected under the posterior.
        linked: float64 [U], expected number of linked positions of each shape.
    """
    mass = max(float(linked.sum()), 1e-12)
    for _ in range(TENSION_STEPS):
        gradient = (feature - float(linked @ log_partition(tension, shapes)[1])) / mass
        tension = float(np.clip(tension + TENSION_RATE * gradient, *TENSION_RANGE))
    return tension


def normalise_counts(counts: FloatArray, starts: IntArray, threads: int = 1) -> NDArray[np.float32]:
    """Mean-field variational table: exp(digamma(c + alpha) - digamma(sum of c + alpha over the row)), at least `FLOOR`.

    Args:
        counts: float64 [P] expected counts, row after row; starts: int64 [rows], where each row begins.
    """
    table = counts + CONCENTRATION
    totals = np.repeat(digamma(np.add.reduceat(table, starts)), np.diff(starts, append=len(table)))
    result = np.empty(len(table), dtype=np.float32)

    def normalise(start: int) -> None:
        part = table[start : start + SLICE]
        digamma(part, out=part)  # in place: the table is the largest array of float64
        part -= totals[start : start + SLICE]
        np.exp(part, out=part)
        result[start : start + SLICE] = np.maximum(part, FLOOR, out=part)

    for _ in in_order(normalise, range(0, len(table), SLICE), threads):
        pass  # each has filled its own places
    return result


def log_partition(tension: float, shapes: Shapes) -> tuple[FloatArray, FloatArray]:
    """log Z and its derivative in the tension, Z = sum over i = 1..n of exp(-tension |i/n - j/m|), each float64 [U].

    Z is two geometric series that meet at the diagonal (Dyer et al. 2013, section 2.1), so each shape costs the same.
    """
    n = shapes.given_length
    split = shapes.output_position * n // shapes.output_length  # positions 1..split are on or left of the diagonal
    middle = shapes.fractions()
    left, left_slope = _series(middle - split / n, split, n, tension)
    right, right_slope = _series((split + 1) / n - middle, n - split, n, tension)
    return np.log(left + right), (left * left_slope + right * right_slope) / (left + right)


def _series(first: FloatArray, terms: IntArray, n: IntArray, tension: float) -> tuple[FloatArray, FloatArray]:
    """S = sum of exp(-tension (first + q/n)) over q = 0..terms-1, and d log S / d tension (0 where terms = 0)."""
    step, span = tension / n, tension * np.maximum(terms, 1) / n
    total = np.exp(-tension * first) * np.expm1(-step * terms) / np.expm1(-step)
    slope = -first + np.maximum(terms, 1) / n / np.expm1(span) - 1 / n / np.expm1(step)
    return total, np.where(terms > 0, slope, 0.0)


@dataclass(frozen=True)
class _Expected:
    """What one pass over the text expects under the posterior."""

    counts: FloatArray  # [P]
    null_counts: NDArray[Any]  # float64 [output_size]
    linked: NDArray[Any]  # float64 [U]
    feature: float
    log_likelihood: float


def _expect(
    cells: Cells,
    probabilities: NDArray[np.float32],
    null_probabilities: NDArray[np.float32],
    tension: float,
    threads: int,
) -> _Expected:
    """Expected counts under the posterior of the links."""
    rows = cells.rows
    null = NULL_PROBABILITY * null_probabilities[rows.outputs]
    null_posterior = np.empty(len(rows.outputs), dtype=np.float64)
    prior = _Prior.of(tension, rows)

    def expect_part(part: Part) -> tuple[Part, FloatArray, list[float], list[float]]:
        joint = part.cells_of(probabilities)
        features, log_likelihoods = [], []
        for (start, stop, n), view in block_views(part.chunk, joint):
            distance = prior.weigh(view, start, stop, n)
            total = view.sum(axis=1) + null[start:stop]
            view /= total[:, None]
            features.append(float(np.einsum("rn,rn->", view, distance)))
            log_likelihoods.append(float(np.log(total, dtype=np.float64).sum()))
            null_posterior[start:stop] = null[start:stop] / total
        part_counts: Any = np.bincount(part.index, weights=joint, minlength=len(part.types))
        return part, part_counts, features, log_likelihoods

    counts, feature, log_likelihood = np.zeros(len(probabilities)), 0.0, 0.0
    for part, part_counts, features, log_likelihoods in in_order(expect_part, cells.parts, threads):
        counts[part.types] += part_counts
        for distance, value in zip(features, log_likelihoods, strict=True):
            feature -= distance
            log_likelihood += value
    null_counts = np.bincount(rows.outputs, weights=null_posterior, minlength=len(null_probabilities))
    linked = np.bincount(rows.shape_of_row, weights=1 - null_posterior)
    return _Expected(counts, null_counts, linked, feature, log_likelihood)


@dataclass(frozen=True)
class _Prior:
    """The diagonal prior of every row: (1 - p0) exp(-tension |i/n - j/m|) / Z."""

    tension: float
    scales: NDArray[np.float32]  # [R] (1 - p0) / Z
    fractions: NDArray[np.float32]  # [R] j / m

    @staticmethod
    def of(tension: float, rows: Rows) -> _Prior:
        scales = (1 - NULL_PROBABILITY) * np.exp(-log_partition(tension, rows.shapes)[0])
        fractions = rows.shapes.fractions()
        return _Prior(
            tension,
            scales.astype(np.float32)[rows.shape_of_row],
            fractions.astype(np.float32)[rows.shape_of_row],
        )

    def weigh(self, cells: NDArray[np.float32], start: int, stop: int, n: int) -> NDArray[np.float32]:
        """Multiply a block's cells by the prior, in place; gives |i/n - j/m|, float32 [rows, n]."""
        grid = (np.arange(1, n + 1) / n).astype(np.float32)
        distance = np.abs(self.fractions[start:stop, None] - grid)
        weights = distance * np.float32(-self.tension)
        np.exp(weights, out=weights)
        weights *= self.scales[start:stop, None]
        cells *= weights
        return np.asarray(distance)


def _decode(
    rows: Rows,
    model: LinkModel,
    with_probabilities: Callable[[_Piece], tuple[Chunk, NDArray[np.float32]]],
    pieces: Iterable[_Piece],
    output: Ragged,
    threads: int,
) -> Ragged:
    """The most probable link of every output position.

    Args:
        with_probabilities: gives the chunk of one of `pieces`, which stand for the chunks of all rows, and the
            translation probabilities of its cells.
    """
    best = np.full(len(output.values), -1, dtype=np.int32)
    prior = _Prior.of(model.tension, rows)
    known = np.append(model.null_probabilities, np.float32(FLOOR))
    null = NULL_PROBABILITY * known[np.minimum(rows.outputs, len(known) - 1)]

    def decode_piece(piece: _Piece) -> None:
        chunk, joint = with_probabilities(piece)
        for (start, stop, n), view in block_views(chunk, joint):
            prior.weigh(view, start, stop, n)
            choice = view.argmax(axis=1)
            linked = view[np.arange(stop - start), choice] > null[start:stop]
            best[rows.places[start:stop]] = np.where(linked, choice, -1)

    for _ in in_order(decode_piece, pieces, threads):
        pass  # each has filled its own places
    return Ragged(best, output.offsets)


def check_text(source: Ragged, target: Ragged, iterations: int, max_pairs: int | None) -> None:
    """Refuse what cannot be trained on.

    Raises:
        DataError: the sides differ in length, there is nothing to link, or a number is below 1.
    """
    _check_lengths(source, target)
    for name, number in (("iterations", iterations), ("max_pairs", max_pairs)):
        if number is not None and number < 1:
            raise _error(f"{name} of 1 or more", str(number), "give a positive number")
    lengths = source.lengths()[:max_pairs] * target.lengths()[:max_pairs]
    if not lengths.any():
        raise _error(
            "a pair with text on both sides", f"{len(lengths):,} pairs, none of them such", "give parallel text"
        )


def _check_lengths(source: Ragged, target: Ragged) -> None:
    if len(source) != len(target):
        found = f"{len(source):,} and {len(target):,}"
        raise _error("as many source as target sentences", found, "give them pair by pair")


def _error(expected: str, found: str, hint: str) -> DataError:
    return data_error("word links", None, expected=expected, found=found, hint=hint)
