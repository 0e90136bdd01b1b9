"""Statistical word links of parallel text: IBM model 2 with a diagonal prior (Dyer et al. 2013).

One direction explains each position of an *output* sentence by one position of the *input* sentence, or by nothing:
forward is p(target | source), reverse is p(source | target). METHOD section 5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError, data_error

NULL_PROBABILITY = 0.08  # p0 of Dyer et al. 2013
CONCENTRATION = 0.01  # Dirichlet alpha of the translation table
FIRST_TENSION = 4.0
TENSION_RANGE = (0.1, 14.0)
TENSION_STEPS = 8
TENSION_RATE = 20.0
FLOOR = 1e-9  # least translation probability: of type pairs never seen together, and of those that training ruled out
CHUNK_CELLS = 1 << 22  # cells that are numbered and counted at once: some 200 MB of temporary arrays
BLOCK_CELLS = 1 << 17  # cells whose posteriors are computed at once: they stay in the processor's cache

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class WordLinks:
    """Links of parallel text in both directions.

    Attributes:
        source_of_target: for every target position the 0-based source position in the same pair, or -1.
        target_of_source: for every source position the 0-based target position in the same pair, or -1.
        statistics: plain values: pairs, tensions, log-likelihoods, shares of unlinked positions, seconds.
    """

    source_of_target: Ragged
    target_of_source: Ragged
    statistics: dict[str, Any]


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
        at = _find(self.keys, np.asarray([input_id * len(self.null_probabilities) + output_id], dtype=np.int64))[0]
        return float(self.probabilities[at]) if at < len(self.keys) else FLOOR


@dataclass(frozen=True)
class WordGroups:
    """Sequences of pieces seen as sequences of words.

    Attributes:
        words: word types, numbered from 0; one type for each tuple of piece ids.
        word_of_piece: for every piece the 0-based word that it belongs to.
        first_piece: for every word its 0-based first piece.
        piece_lengths: int64 [sequences], pieces of each sequence.
    """

    words: Ragged
    word_of_piece: Ragged
    first_piece: Ragged
    piece_lengths: IntArray


def link(
    source: Ragged,
    target: Ragged,
    *,
    iterations: int = 5,
    max_pairs: int | None = None,
    source_continuation: NDArray[np.bool_] | None = None,
    target_continuation: NDArray[np.bool_] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> WordLinks:
    """Link parallel text in both directions, one link for each output position.

    Args:
        source, target: piece ids without special tokens; pair `i` is `source[i]`, `target[i]`.
        iterations: expectation-maximisation steps of each direction.
        max_pairs: the model is trained on the first so many pairs, and applied to all.
        source_continuation, target_continuation: bool [V], whether a piece goes on with the word before it. Where one
            is given, words are linked, and the links projected to pieces; a side without one has a word in each piece.
            With neither, pieces are linked directly, as in the paper.
        on_progress: called with (steps done, steps in all).

    Raises:
        DataError: the sides differ in length, there is nothing to link, or a number is out of range.
    """
    started = time.perf_counter()
    _check(source, target, iterations, max_pairs)
    total, done = 2 * iterations + 2, 0

    def progress() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    by_words = source_continuation is not None or target_continuation is not None
    source_groups = word_groups(source, _or_none(source_continuation, source)) if by_words else None
    target_groups = word_groups(target, _or_none(target_continuation, target)) if by_words else None
    sources = source if source_groups is None else source_groups.words
    targets = target if target_groups is None else target_groups.words
    models, links = [], []
    for given, output in ((sources, targets), (targets, sources)):
        model, best = _link_direction(given, output, iterations, max_pairs, progress)
        models.append(model)
        links.append(best)
    if source_groups is not None and target_groups is not None:
        links[0] = project_to_pieces(links[0], output=target_groups, given=source_groups)
        links[1] = project_to_pieces(links[1], output=source_groups, given=target_groups)
    statistics = _statistics(source, target, links, models, max_pairs)
    statistics |= {"unit": "word" if by_words else "piece", "seconds": round(time.perf_counter() - started, 3)}
    return WordLinks(links[0], links[1], statistics)


def train_direction(
    given: Ragged, output: Ragged, *, iterations: int = 5, on_step: Callable[[], None] | None = None
) -> LinkModel:
    """Train p(output | given) by variational Bayes (Dyer et al. 2013, sections 2 and 3).

    Pairs with an empty side say nothing and are left out. Memory: 4 bytes a cell (an output position and a position of
    its input), 32 bytes a type pair seen together, and the temporary arrays of one chunk.

    Raises:
        DataError: the sides differ in length, every pair has an empty side, or `iterations` is below 1.
    """
    _check(given, output, iterations, None)
    return _train(_Cells.of(given, output), iterations, on_step)


def _train(cells: _Cells, iterations: int, on_step: Callable[[], None] | None) -> LinkModel:
    size, keys = cells.output_size, cells.keys
    probabilities = np.full(len(keys), 1 / size, dtype=np.float32)
    null_probabilities = np.full(size, 1 / size, dtype=np.float32)
    tension, log_likelihoods = FIRST_TENSION, []
    for iteration in range(iterations):
        expected = _expect(cells, probabilities, null_probabilities, tension)
        if iteration > 0:  # the first posteriors know no translations: they would fit the tension to itself
            tension = fit_tension(tension, expected.feature, expected.linked, cells.rows.shapes)
        probabilities = normalise_counts(expected.counts, keys // size)
        null_probabilities = normalise_counts(expected.null_counts, np.zeros(size, dtype=np.int64))
        log_likelihoods.append(expected.log_likelihood / len(cells.rows.outputs))
        if on_step is not None:
            on_step()
    return LinkModel(keys, probabilities, null_probabilities, tension, tuple(log_likelihoods))


def _link_direction(
    given: Ragged, output: Ragged, iterations: int, max_pairs: int | None, on_step: Callable[[], None]
) -> tuple[LinkModel, Ragged]:
    """Train on the first pairs and link all of them; where these are the same, the numbered cells serve twice."""
    cells = _Cells.of(_head(given, max_pairs), _head(output, max_pairs))
    model = _train(cells, iterations, on_step)
    if max_pairs is None or max_pairs >= len(given):
        best = _decode(cells.rows, model, (model.probabilities[part] for part in cells.parts()), output)
    else:
        del cells
        best = best_links(model, given, output)
    on_step()
    return model, best


def best_links(model: LinkModel, given: Ragged, output: Ragged) -> Ragged:
    """For every output position its most probable position in `given`, or -1 where nothing is at least as probable.

    Raises:
        DataError: the sides differ in length.
    """
    _check_lengths(given, output)
    rows = _Rows.of(given, output)
    table = np.append(model.probabilities, np.float32(FLOOR))

    def probabilities(chunk: _Chunk) -> NDArray[np.float32]:
        keys, inverse = _number(rows.keys(chunk, len(model.null_probabilities)))
        return table[_find(model.keys, keys)[inverse]]

    return _decode(rows, model, map(probabilities, rows.chunks()), output)


def count_linked_pairs(source: Ragged, target: Ragged, links: WordLinks) -> tuple[IntArray, NDArray[np.float32]]:
    """Type pairs by how often both directions link them.

    Returns:
        int64 [p, 2] of (source id, target id), ascending, and their counts, float32 [p].

    Raises:
        DataError: the links are not those of this text.
    """
    for side, linked, name in ((source, links.target_of_source, "source"), (target, links.source_of_target, "target")):
        if not np.array_equal(side.lengths(), linked.lengths()):
            raise _error(f"one link for each {name} position", "another text's links", "give the text that was linked")
    agreed, positions = _agreed(links.source_of_target, links.target_of_source)
    size = int(target.values.max()) + 1 if len(target.values) else 1
    keys = source.values[agreed].astype(np.int64) * size + target.values[positions]
    unique, counts = np.unique(keys, return_counts=True)
    return np.stack([unique // size, unique % size], axis=1), counts.astype(np.float32)


def alignment_error_rate(
    links: set[tuple[int, int]], sure: set[tuple[int, int]], possible: set[tuple[int, int]]
) -> float:
    """1 - (|A & S| + |A & P|) / (|A| + |S|) (Och and Ney 2003); sure links are possible ones too.

    With neither links nor sure links the rate is 0.
    """
    if not links and not sure:
        return 0.0
    return 1 - (len(links & sure) + len(links & (possible | sure))) / (len(links) + len(sure))


def word_groups(ids: Ragged, is_continuation: NDArray[np.bool_]) -> WordGroups:
    """Group pieces into words: a word is a piece and the continuations after it; a sequence starts with a new word.

    Args:
        ids: piece ids; is_continuation: bool [V].

    Raises:
        DataError: `is_continuation` is too short for an id.
    """
    values = np.asarray(ids.values)
    if len(values) and int(values.max()) >= len(is_continuation):
        raise _error(
            f"piece ids below {len(is_continuation)}",
            str(int(values.max())),
            "give a continuation mark for every piece",
        )
    starts = ~is_continuation[values]
    lengths = ids.lengths()
    starts[ids.offsets[:-1][lengths > 0]] = True
    before = np.concatenate([[0], np.cumsum(starts)])
    word_offsets = before[ids.offsets]
    first = np.flatnonzero(starts)
    word_of_piece = before[1:] - 1 - np.repeat(word_offsets[:-1], lengths)
    first_piece = first - np.repeat(ids.offsets[:-1], np.diff(word_offsets))
    return WordGroups(
        Ragged(_word_types(values, first), word_offsets),
        Ragged(word_of_piece.astype(np.int32), ids.offsets),
        Ragged(first_piece.astype(np.int32), word_offsets),
        lengths,
    )


def project_to_pieces(links: Ragged, *, output: WordGroups, given: WordGroups) -> Ragged:
    """Turn links of words into links of pieces: the k-th piece of a word takes piece min(k, last) of the linked word.

    Args:
        links: for every word of `output` a 0-based word of `given`, or -1.

    Returns:
        For every piece of `output` a 0-based piece of `given`, or -1.
    """
    words = output.words
    pieces = output.word_of_piece
    word = pieces.values + np.repeat(words.offsets[:-1], output.piece_lengths)
    sequence = np.repeat(np.arange(len(words)), output.piece_lengths)
    rank = _positions(pieces) - output.first_piece.values[word]
    linked = links.values[word].astype(np.int64)
    at = given.words.offsets[sequence] + np.maximum(linked, 0)
    sizes = _word_sizes(given)
    projected = np.full(len(word), -1, dtype=np.int32)
    found = linked >= 0
    at = at[found]
    projected[found] = given.first_piece.values[at] + np.minimum(rank[found], sizes[at] - 1)
    return Ragged(projected, pieces.offsets)


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


def normalise_counts(counts: FloatArray, rows: IntArray) -> NDArray[np.float32]:
    """Mean-field variational table: exp(digamma(c + alpha) - digamma(sum of c + alpha over the row)), at least `FLOOR`.

    Args:
        counts: float64 [P] expected counts; rows: int64 [P], ascending, the row that each belongs to.
    """
    smoothed = counts + CONCENTRATION
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    totals = digamma(np.add.reduceat(smoothed, starts))
    logarithms = digamma(smoothed) - np.repeat(totals, np.diff(starts, append=len(rows)))
    return np.asarray(np.maximum(np.exp(logarithms), FLOOR), dtype=np.float32)


@dataclass(frozen=True)
class Shapes:
    """Distinct (input length n, output length m, output position j from 1) of the text, int64 [U] each."""

    given_length: IntArray
    output_length: IntArray
    output_position: IntArray

    def fractions(self) -> FloatArray:
        """j / m."""
        return np.asarray(self.output_position / self.output_length, dtype=np.float64)


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


Block = tuple[int, int, int]  # first row, row after the last, their input length n
_Chunk = list[Block]


@dataclass(frozen=True)
class _Rows:
    """One row for each output position that has an input; rows of equal input length n stand together.

    The cells of a row are the n input positions, so that a block of rows is a matrix without padding.
    """

    given: Ragged
    outputs: NDArray[np.int32]  # [R] output ids
    places: IntArray  # [R] where the row stands in the flat output
    given_starts: IntArray  # [R] where its input sentence starts in the flat input
    shape_of_row: IntArray  # [R]
    shapes: Shapes

    @staticmethod
    def of(given: Ragged, output: Ragged) -> _Rows:
        n, m = given.lengths(), output.lengths()
        places = np.arange(len(output.values))
        row_n = np.repeat(n, m)
        places = places[np.argsort(row_n, kind="stable")][np.count_nonzero(row_n == 0) :]
        pair = np.repeat(np.arange(len(output)), m)[places]
        position = places - output.offsets[pair] + 1
        radix = int(m.max(initial=0)) + 1
        triples, shape_of_row = np.unique((n[pair] * radix + m[pair]) * radix + position, return_inverse=True)
        shapes = Shapes(triples // radix // radix, triples // radix % radix, triples % radix)
        return _Rows(given, output.values[places], places, given.offsets[pair], shape_of_row, shapes)

    def blocks(self) -> Iterator[Block]:
        """All rows, in order, some `BLOCK_CELLS` cells at a time."""
        lengths = self.shapes.given_length[self.shape_of_row]
        edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
        for start, stop in zip(edges, edges[1:]):
            n = int(lengths[start]) if len(lengths) else 1
            size = max(1, BLOCK_CELLS // n)
            yield from ((first, min(first + size, stop), n) for first in range(start, stop, size))

    def chunks(self) -> Iterator[_Chunk]:
        """All blocks, in order, some `CHUNK_CELLS` cells at a time."""
        chunk: _Chunk = []
        for start, stop, n in self.blocks():
            if chunk and _cell_count(chunk) + (stop - start) * n > CHUNK_CELLS:
                yield chunk
                chunk = []
            chunk.append((start, stop, n))
        if chunk:
            yield chunk

    def keys(self, chunk: _Chunk, output_size: int) -> IntArray:
        """The type pair of every cell of a chunk, int64 [cells]; -1 where the output id is not below `output_size`."""
        keys = np.empty(_cell_count(chunk), dtype=np.int64)
        for (start, stop, n), view in _views(chunk, keys):
            ids = self.given.values[self.given_starts[start:stop, None] + np.arange(n)]
            outputs = self.outputs[start:stop, None]
            np.multiply(ids, output_size, out=view, dtype=np.int64)
            view += outputs
            view[outputs[:, 0] >= output_size] = -1
        return keys


def _cell_count(chunk: _Chunk) -> int:
    return sum((stop - start) * n for start, stop, n in chunk)


def _views(chunk: _Chunk, flat: NDArray[Any]) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Each block of a chunk with its cells of a flat array as a matrix [rows, n]."""
    at = 0
    for start, stop, n in chunk:
        size = (stop - start) * n
        yield (start, stop, n), flat[at : at + size].reshape(stop - start, n)
        at += size


def _number(keys: IntArray) -> tuple[IntArray, NDArray[np.int32]]:
    """Distinct keys, ascending, and for every key its place among them."""
    bits = max(1, (len(keys) - 1).bit_length())
    low, high = int(keys.min()), int(keys.max())
    if (high - low).bit_length() + bits > 62:
        unique, places = np.unique(keys, return_inverse=True)
        return unique, places.astype(np.int32)
    # Sorting keys with their places packed into the low bits is several times faster than sorting places by keys.
    packed = ((keys - low) << bits) | np.arange(len(keys))
    packed.sort()
    places = packed & ((1 << bits) - 1)
    packed >>= bits
    new = _first_of_run(packed)
    inverse = np.empty(len(keys), dtype=np.int32)
    inverse[places] = np.cumsum(new, dtype=np.int32) - 1
    return np.asarray(packed[new] + low), inverse


def _first_of_run(values: IntArray) -> NDArray[np.bool_]:
    """Whether each value differs from the one before it."""
    first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first


@dataclass(frozen=True)
class _Cells:
    """The rows of a text with the type pair of every cell numbered."""

    rows: _Rows
    output_size: int
    keys: IntArray  # [P] distinct type pairs, ascending
    index: NDArray[np.int32]  # [cells] place in `keys`, in the order of the rows

    @staticmethod
    def of(given: Ragged, output: Ragged) -> _Cells:
        rows = _Rows.of(given, output)
        output_size = int(rows.outputs.max()) + 1
        numbered = [_number(rows.keys(chunk, output_size)) for chunk in rows.chunks()]
        keys = np.concatenate([part for part, _ in numbered])
        keys.sort()  # np.unique hashes, which is many times slower for keys by the million
        keys = keys[_first_of_run(keys)]
        places = [np.searchsorted(keys, part).astype(np.int32)[inverse] for part, inverse in numbered]
        return _Cells(rows, output_size, keys, np.concatenate(places))

    def parts(self) -> Iterator[NDArray[np.int32]]:
        """`index`, chunk by chunk."""
        at = 0
        for chunk in self.rows.chunks():
            size = _cell_count(chunk)
            yield self.index[at : at + size]
            at += size


def _find(keys: IntArray, wanted: IntArray) -> IntArray:
    """Places of the wanted keys among ascending `keys`; `len(keys)` for those that are not there."""
    places = np.searchsorted(keys, wanted)
    found = keys[np.minimum(places, len(keys) - 1)] == wanted
    return np.where(found, places, len(keys))


@dataclass
class _Expected:
    """What one pass over the text expects under the posterior."""

    counts: FloatArray  # [P]
    null_counts: NDArray[Any]  # float64 [output_size]
    linked: NDArray[Any]  # float64 [U]
    feature: float = 0.0
    log_likelihood: float = 0.0


def _expect(
    cells: _Cells, probabilities: NDArray[np.float32], null_probabilities: NDArray[np.float32], tension: float
) -> _Expected:
    """Expected counts under the posterior of the links."""
    rows = cells.rows
    expected = _Expected(np.zeros(len(probabilities)), np.zeros(0), np.zeros(0))
    null = NULL_PROBABILITY * null_probabilities[rows.outputs]
    null_posterior = np.empty(len(rows.outputs), dtype=np.float64)
    prior = _Prior.of(tension, rows)
    for chunk, index in zip(rows.chunks(), cells.parts()):
        joint = probabilities[index]
        for (start, stop, n), view in _views(chunk, joint):
            distance = prior.weigh(view, start, stop, n)
            total = view.sum(axis=1) + null[start:stop]
            view /= total[:, None]
            expected.feature -= float(np.einsum("rn,rn->", view, distance))
            expected.log_likelihood += float(np.log(total, dtype=np.float64).sum())
            null_posterior[start:stop] = null[start:stop] / total
        expected.counts += np.bincount(index, weights=joint, minlength=len(probabilities))
    expected.null_counts = np.bincount(rows.outputs, weights=null_posterior, minlength=len(null_probabilities))
    expected.linked = np.bincount(rows.shape_of_row, weights=1 - null_posterior)
    return expected


@dataclass(frozen=True)
class _Prior:
    """The diagonal prior of every row: (1 - p0) exp(-tension |i/n - j/m|) / Z."""

    tension: float
    scales: NDArray[np.float32]  # [R] (1 - p0) / Z
    fractions: NDArray[np.float32]  # [R] j / m

    @staticmethod
    def of(tension: float, rows: _Rows) -> _Prior:
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


def _decode(rows: _Rows, model: LinkModel, chunks: Iterable[NDArray[np.float32]], output: Ragged) -> Ragged:
    """The most probable link of every output position; `chunks` are the translation probabilities of the cells."""
    best = np.full(len(output.values), -1, dtype=np.int32)
    prior = _Prior.of(model.tension, rows)
    known = np.append(model.null_probabilities, np.float32(FLOOR))
    null = NULL_PROBABILITY * known[np.minimum(rows.outputs, len(known) - 1)]
    for chunk, joint in zip(rows.chunks(), chunks):
        for (start, stop, n), view in _views(chunk, joint):
            prior.weigh(view, start, stop, n)
            choice = view.argmax(axis=1)
            linked = view[np.arange(stop - start), choice] > null[start:stop]
            best[rows.places[start:stop]] = np.where(linked, choice, -1)
    return Ragged(best, output.offsets)


def _word_types(values: NDArray[np.int32], first: IntArray) -> NDArray[np.int32]:
    """A number for each word, the same for the same tuple of pieces; `first` says where words start in `values`."""
    sizes = np.diff(first, append=len(values))
    types = values[first].astype(np.int64)
    used = int(values.max(initial=-1)) + 1
    radix = used
    # Words grow by one piece a round, as paths in a prefix tree: a path's number is new to its round.
    for depth in range(1, int(sizes.max(initial=0))):
        longer = np.flatnonzero(sizes > depth)
        unique, inverse = np.unique(types[longer] * radix + values[first[longer] + depth], return_inverse=True)
        types[longer] = used + inverse
        used += len(unique)
    return np.unique(types, return_inverse=True)[1].astype(np.int32)


def _word_sizes(groups: WordGroups) -> IntArray:
    """Pieces of each word, int64 [words in all]."""
    ends = np.append(groups.first_piece.values[1:], 0).astype(np.int64)
    lengths = groups.words.lengths()
    filled = lengths > 0
    ends[groups.words.offsets[1:][filled] - 1] = groups.piece_lengths[filled]
    return ends - groups.first_piece.values


def _positions(ragged: Ragged) -> IntArray:
    """The 0-based position of every value in its own sequence."""
    return np.arange(len(ragged.values)) - np.repeat(ragged.offsets[:-1], ragged.lengths())


def _agreed(source_of_target: Ragged, target_of_source: Ragged) -> tuple[IntArray, IntArray]:
    """Flat source and flat target positions of the links that both directions have."""
    linked = np.flatnonzero(target_of_source.values >= 0)
    sequence = np.repeat(np.arange(len(target_of_source)), target_of_source.lengths())[linked]
    targets = source_of_target.offsets[sequence] + target_of_source.values[linked]
    back = target_of_source.offsets[sequence] + source_of_target.values[targets]
    agreed = (source_of_target.values[targets] >= 0) & (back == linked)
    return linked[agreed], targets[agreed]


def _statistics(
    source: Ragged, target: Ragged, links: list[Ragged], models: list[LinkModel], max_pairs: int | None
) -> dict[str, Any]:
    agreed = len(_agreed(links[0], links[1])[0])
    linked = [int(np.count_nonzero(side.values >= 0)) for side in links]
    directions = {
        name: {
            "positions": len(side.values),
            "links": count,
            "share_unlinked": 1 - count / len(side.values),
            "tension": model.tension,
            "log_likelihood": list(model.log_likelihoods),
        }
        for name, side, count, model in zip(("forward", "reverse"), links, linked, models)
    }
    return {
        "pairs": len(source),
        "pairs_trained_on": min(len(source), max_pairs or len(source)),
        "pairs_with_an_empty_side": int(np.count_nonzero((source.lengths() == 0) | (target.lengths() == 0))),
        "links_per_target_token": linked[0] / len(target.values),
        "agreed_links": agreed,
        "agreed_links_per_target_token": agreed / len(target.values),
        **directions,
    }


def _head(ragged: Ragged, count: int | None) -> Ragged:
    """The first `count` sequences."""
    offsets = ragged.offsets if count is None else ragged.offsets[: count + 1]
    return Ragged(np.asarray(ragged.values[: offsets[-1]]), offsets)


def _or_none(is_continuation: NDArray[np.bool_] | None, ids: Ragged) -> NDArray[np.bool_]:
    """The marks, or marks that make every piece a word."""
    return np.zeros(int(ids.values.max(initial=-1)) + 1, dtype=bool) if is_continuation is None else is_continuation


def _check(source: Ragged, target: Ragged, iterations: int, max_pairs: int | None) -> None:
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
