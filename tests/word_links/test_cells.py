"""Numbered cells against loops over every cell."""

from __future__ import annotations

import tracemalloc
from time import sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_links import Sentences, corpora, translated

from trelm.corpus.ragged import Ragged
from trelm.word_links import cells
from trelm.word_links.cells import Cells, Rows, Shapes, block_views, find_keys, first_of_run, in_order, number_keys

Pairs = list[tuple[list[int], list[int]]]

SIZES = st.integers(1, 30)  # cells of a block or a chunk


def sides(pairs: Pairs) -> tuple[Ragged, Ragged]:
    return Ragged.of([x for x, _ in pairs]), Ragged.of([y for _, y in pairs])


def rows_by_hand(pairs: Pairs) -> list[tuple[list[int], int]]:
    """(input sentence, output id) of every output position that has an input, in the order of the input lengths."""
    return sorted(((x, word) for x, y in pairs for word in y if x), key=lambda row: len(row[0]))


def test_keys_too_wide_to_pack_are_numbered_alike() -> None:
    keys = np.asarray([5, 1 << 62, 5, 0], dtype=np.int64)
    unique, places = number_keys(keys)
    assert unique.tolist() == [0, 5, 1 << 62]
    assert places.tolist() == [1, 2, 1, 0]


@given(st.lists(st.integers(-3, 1 << 40), min_size=1, max_size=30))
def test_keys_are_numbered_in_ascending_order(keys: list[int]) -> None:
    unique, places = number_keys(np.asarray(keys, dtype=np.int64))
    assert unique.tolist() == sorted(set(keys))
    assert unique[places].tolist() == keys
    assert places.dtype == np.int32


def test_keys_are_found_and_missing_ones_are_past_the_end() -> None:
    keys = np.asarray([2, 5, 9], dtype=np.int64)
    assert find_keys(keys, np.asarray([9, 2, 5, -1, 3, 10], dtype=np.int64)).tolist() == [2, 0, 1, 3, 3, 3]


def test_runs_start_where_values_change() -> None:
    assert first_of_run(np.asarray([4, 4, 0, 4, 4, 7])).tolist() == [True, False, True, True, False, True]
    assert first_of_run(np.zeros(0, dtype=np.int64)).tolist() == []


def test_a_shape_has_its_place_on_the_diagonal() -> None:
    shapes = Shapes(np.asarray([3, 9]), np.asarray([4, 5]), np.asarray([1, 5]))
    assert shapes.fractions().tolist() == [0.25, 1.0]


def test_rows_by_input_length_by_hand() -> None:
    rows = Rows.of(Ragged.of([[7, 8], [], [9]]), Ragged.of([[1, 2], [3], [4, 5]]))
    assert rows.outputs.tolist() == [4, 5, 1, 2]
    assert rows.places.tolist() == [3, 4, 0, 1]
    assert rows.given_starts.tolist() == [2, 2, 0, 0]
    shapes = np.stack([rows.shapes.given_length, rows.shapes.output_length, rows.shapes.output_position], axis=1)
    assert shapes[rows.shape_of_row].tolist() == [[1, 2, 1], [1, 2, 2], [2, 2, 1], [2, 2, 2]]


def test_equal_shapes_are_kept_once() -> None:
    rows = Rows.of(Ragged.of([[0, 1]] * 5), Ragged.of([[0, 1, 2]] * 5))
    assert rows.shapes.output_position.tolist() == [1, 2, 3]
    assert rows.shape_of_row.tolist() == [0, 1, 2] * 5


@given(pairs=corpora, chunk=SIZES, block=SIZES)
def test_blocks_and_chunks_hold_every_row_once_and_keep_to_their_size(pairs: Pairs, chunk: int, block: int) -> None:
    rows = Rows.of(*sides(pairs))
    lengths = [len(x) for x, _ in rows_by_hand(pairs)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "CHUNK_CELLS", chunk)
        patch.setattr(cells, "BLOCK_CELLS", block)
        blocks, chunks = list(rows.blocks()), list(rows.chunks())
    assert [row for start, stop, _ in blocks for row in range(start, stop)] == list(range(len(lengths)))
    assert all(set(lengths[start:stop]) == {n} for start, stop, n in blocks)
    assert all((stop - start) * n <= block or stop - start == 1 for start, stop, n in blocks)
    assert [part for parts in chunks for part in parts] == blocks
    assert all(sum((b - a) * n for a, b, n in parts) <= chunk or len(parts) == 1 for parts in chunks)


@given(pairs=corpora, chunk=SIZES)
def test_every_cell_has_the_number_of_its_type_pair(pairs: Pairs, chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "CHUNK_CELLS", chunk)
        patch.setattr(cells, "BLOCK_CELLS", max(1, chunk // 2))
        numbered = Cells.of(*sides(pairs))
        sizes = [sum((stop - start) * n for start, stop, n in blocks) for blocks in numbered.rows.chunks()]
        chunks = list(numbered.rows.chunks())
    size = max(word for x, y in pairs if x for word in y) + 1
    wanted = [word * size + output for x, output in rows_by_hand(pairs) for word in x]
    assert numbered.output_size == size
    assert numbered.keys.tolist() == sorted(set(wanted))
    assert [key for part in numbered.parts for key in numbered.keys[part.types[part.index]].tolist()] == wanted
    assert [len(part.index) for part in numbered.parts] == sizes
    assert [part.chunk for part in numbered.parts] == chunks
    for part in numbered.parts:
        assert (part.types.dtype, part.index.dtype) == (np.int32, np.int32)
        assert part.types.tolist() == sorted(set(part.types.tolist()))
        table = np.arange(len(numbered.keys), dtype=np.float32)
        assert part.cells_of(table).tolist() == part.types[part.index].tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order_and_few_wait(threads: int) -> None:
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        sleep(0.002 * (number % 3))
        return number * number

    results = in_order(square, iter(range(20)), threads)
    assert next(results) == 0
    assert len(begun) <= threads + 1
    assert list(results) == [number * number for number in range(1, 20)]


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_in_a_thread_ends_the_work(threads: int) -> None:
    done: list[int] = []

    def fail_at_three(number: int) -> None:
        if number == 3:
            raise ValueError("three")
        done.append(number)

    with pytest.raises(ValueError, match="three"):
        list(in_order(fail_at_three, range(100), threads))
    assert len(done) <= 3 + threads + 1


def test_work_ends_with_its_user() -> None:
    done: list[int] = []
    results = in_order(done.append, range(100), 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(done) <= 4


def test_outputs_that_the_model_does_not_know_have_no_key() -> None:
    rows = Rows.of(Ragged.of([[2, 3]]), Ragged.of([[1, 5, 4]]))
    (chunk,) = rows.chunks()
    assert rows.keys(chunk, 5).tolist() == [11, 16, -1, -1, 14, 19]


def test_blocks_are_views_of_the_flat_array() -> None:
    flat = np.zeros(8)
    for number, (block, view) in enumerate(block_views([(0, 2, 1), (2, 4, 3)], flat)):
        assert view.shape == (block[1] - block[0], block[2])
        view += number + 1
    assert flat.tolist() == [1, 1, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("text", [([], []), ([[1], []], [[], [1]])])
def test_text_without_pairs_has_no_rows(text: tuple[Sentences, Sentences]) -> None:
    rows = Rows.of(Ragged.of(text[0]), Ragged.of(text[1]))
    assert (len(rows.outputs), list(rows.blocks()), list(rows.chunks())) == (0, [], [])


def test_small_chunks_need_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, _ = translated(2000, reverse=False)
    text = Ragged.of(source), Ragged.of(target)

    def peak() -> int:
        tracemalloc.start()
        Cells.of(*text)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    whole = peak()
    monkeypatch.setattr(cells, "CHUNK_CELLS", 2000)
    monkeypatch.setattr(cells, "BLOCK_CELLS", 500)
    assert peak() < 0.7 * whole
