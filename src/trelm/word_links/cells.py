"""The cells of parallel text: one for each output position and each position of its input, numbered by type pair.

Cells come in blocks, which are matrices, and chunks of blocks, which bound the memory of one step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.ragged import Ragged

CHUNK_CELLS = 1 << 22  # cells that are numbered and counted at once: some 200 MB of temporary arrays
BLOCK_CELLS = 1 << 17  # cells whose posteriors are computed at once: they stay in the processor's cache

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

Block = tuple[int, int, int]  # first row, row after the last, their input length n
Chunk = list[Block]

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Shapes:
    """Distinct (input length n, output length m, output position j from 1) of the text, int64 [U] each."""

    given_length: IntArray
    output_length: IntArray
    output_position: IntArray

    def fractions(self) -> FloatArray:
        """j / m."""
        return np.asarray(self.output_position / self.output_length, dtype=np.float64)


@dataclass(frozen=True)
class Rows:
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
    def of(given: Ragged, output: Ragged) -> Rows:
        """The rows of a text; pairs without input have none."""
        n, m = given.lengths(), output.lengths()
        places = np.arange(len(output.values))
        row_n = np.repeat(n, m)
        places = places[np.argsort(row_n, kind="stable")][np.count_nonzero(row_n == 0) :]
        pair = np.repeat(np.arange(len(output)), m)[places]
        position = places - output.offsets[pair] + 1
        radix = int(m.max(initial=0)) + 1
        triples, shape_of_row = np.unique((n[pair] * radix + m[pair]) * radix + position, return_inverse=True)
        shapes = Shapes(triples // radix // radix, triples // radix % radix, triples % radix)
        return Rows(given, output.values[places], places, given.offsets[pair], shape_of_row, shapes)

    def blocks(self) -> Iterator[Block]:
        """All rows, in order, some `BLOCK_CELLS` cells at a time."""
        lengths = self.shapes.given_length[self.shape_of_row]
        edges = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
        for start, stop in zip(edges, edges[1:]):
            n = int(lengths[start]) if len(lengths) else 1
            size = max(1, BLOCK_CELLS // n)
            yield from ((first, min(first + size, stop), n) for first in range(start, stop, size))

    def chunks(self) -> Iterator[Chunk]:
        """All blocks, in order, some `CHUNK_CELLS` cells at a time."""
        chunk: Chunk = []
        for start, stop, n in self.blocks():
            if chunk and _cell_count(chunk) + (stop - start) * n > CHUNK_CELLS:
                yield chunk
                chunk = []
            chunk.append((start, stop, n))
        if chunk:
            yield chunk

    def keys(self, chunk: Chunk, output_size: int) -> IntArray:
        """The type pair of every cell of a chunk, int64 [cells]; -1 where the output id is not below `output_size`."""
        keys = np.empty(_cell_count(chunk), dtype=np.int64)
        for (start, stop, n), view in block_views(chunk, keys):
            ids = self.given.values[self.given_starts[start:stop, None] + np.arange(n)]
            outputs = self.outputs[start:stop, None]
            np.multiply(ids, output_size, out=view, dtype=np.int64)
            view += outputs
            view[outputs[:, 0] >= output_size] = -1
        return keys


@dataclass(frozen=True)
class Part:
    """The cells of one chunk, numbered among themselves: its type pairs are few, so that its tables stay in the cache.

    Attributes:
        chunk: its blocks.
        types: int32 [p], ascending, the place of each of its type pairs in `Cells.keys`.
        index: int32 [cells of the chunk], in the order of the rows, places in `types`.
    """

    chunk: Chunk
    types: NDArray[np.int32]
    index: NDArray[np.int32]

    def cells_of(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a table [P] over `Cells.keys` has for every cell, float32 [cells of the chunk]."""
        return np.asarray(table[self.types][self.index])


@dataclass(frozen=True)
class Cells:
    """The rows of a text with the type pair of every cell numbered."""

    rows: Rows
    output_size: int
    keys: IntArray  # [P] distinct type pairs, ascending
    parts: list[Part]  # one for each chunk of the rows

    @staticmethod
    def of(given: Ragged, output: Ragged, threads: int = 1) -> Cells:
        """Number the cells of a text that has some, chunk by chunk, `threads` chunks at a time."""
        rows = Rows.of(given, output)
        output_size, chunks = int(rows.outputs.max()) + 1, list(rows.chunks())
        numbered = list(in_order(lambda chunk: number_keys(rows.keys(chunk, output_size)), chunks, threads))
        keys = np.concatenate([own for own, _ in numbered])
        keys.sort()  # np.unique hashes, which is many times slower for keys by the million
        keys = keys[first_of_run(keys)]

        def part(numbers: tuple[Chunk, tuple[IntArray, NDArray[np.int32]]]) -> Part:
            chunk, (own, index) = numbers
            return Part(chunk, np.searchsorted(keys, own).astype(np.int32), index)

        return Cells(rows, output_size, keys, list(in_order(part, zip(chunks, numbered, strict=True), threads)))


def in_order(function: Callable[[Given], Result], items: Iterable[Given], threads: int) -> Iterator[Result]:
    """`function` of each item, in the order of the items, `threads` of them computed at a time.

    numpy lets other threads run while it gathers, sorts and counts. Where the results are put together in this order,
    sums come out the same, to the last bit, for every number of threads. As soon as the caller stops, so does it all.
    """
    if threads <= 1:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:  # no more results at once than are needed to keep all threads at work
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _cell_count(chunk: Chunk) -> int:
    return sum((stop - start) * n for start, stop, n in chunk)


def block_views(chunk: Chunk, flat: NDArray[Any]) -> Iterator[tuple[Block, NDArray[Any]]]:
    """Each block of a chunk with its cells of a flat array as a matrix [rows, n]."""
    at = 0
    for start, stop, n in chunk:
        size = (stop - start) * n
        yield (start, stop, n), flat[at : at + size].reshape(stop - start, n)
        at += size


def number_keys(keys: IntArray) -> tuple[IntArray, NDArray[np.int32]]:
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
    new = first_of_run(packed)
    inverse = np.empty(len(keys), dtype=np.int32)
    inverse[places] = np.cumsum(new, dtype=np.int32) - 1
    return np.asarray(packed[new] + low), inverse


def find_keys(keys: IntArray, wanted: IntArray) -> IntArray:
    """Places of the wanted keys among ascending `keys`; `len(keys)` for those that are not there."""
    places = np.searchsorted(keys, wanted)
    found = keys[np.minimum(places, len(keys) - 1)] == wanted
    return np.where(found, places, len(keys))


def first_of_run(values: IntArray) -> NDArray[np.bool_]:
    """Whether each value differs from the one before it."""
    first = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return first
