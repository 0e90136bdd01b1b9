"""Words as groups of pieces, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_links import Sentences, lists

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError
from trelm.word_links.words import WordGroups, project_to_pieces, word_groups

CONTINUATION = np.asarray([False, False, True, True])
texts = st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=6)


def split_by_hand(pieces: list[int]) -> list[list[int]]:
    """Places of the pieces of each word."""
    grouped: list[list[int]] = []
    for place, piece in enumerate(pieces):
        if place == 0 or not CONTINUATION[piece]:
            grouped.append([])
        grouped[-1].append(place)
    return grouped


def test_words_are_numbered_by_their_pieces() -> None:
    continuation = np.asarray([False, False, True, True])
    groups = word_groups(Ragged.of([[0, 2, 3, 1], [], [2, 0, 2], [0, 2, 3]]), continuation)
    types = lists(groups.words)
    assert [len(row) for row in types] == [2, 0, 2, 1]
    assert types[0][0] == types[3][0]
    assert len({types[0][0], types[0][1], types[2][0], types[2][1]}) == 4
    assert lists(groups.word_of_piece) == [[0, 0, 0, 1], [], [0, 1, 1], [0, 0, 0]]
    assert lists(groups.first_piece) == [[0, 3], [], [0, 1], [0]]


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=6))
def test_word_types_are_tuples(text: Sentences) -> None:
    continuation = np.asarray([False, False, True, True])
    groups = word_groups(Ragged.of(text), continuation)
    seen: dict[tuple[int, ...], int] = {}
    for pieces, types in zip(text, lists(groups.words)):
        grouped: list[list[int]] = []
        for place, piece in enumerate(pieces):
            if place == 0 or not continuation[piece]:
                grouped.append([])
            grouped[-1].append(piece)
        assert len(grouped) == len(types)
        assert all(seen.setdefault(tuple(word), kind) == kind for word, kind in zip(grouped, types))
    assert len(set(seen.values())) == len(seen)


@given(texts)
def test_pieces_and_words_point_at_each_other(text: Sentences) -> None:
    groups = word_groups(Ragged.of(text), CONTINUATION)
    grouped = [split_by_hand(pieces) for pieces in text]
    assert lists(groups.first_piece) == [[places[0] for places in row] for row in grouped]
    assert lists(groups.word_of_piece) == [[word for word, places in enumerate(row) for _ in places] for row in grouped]
    assert groups.piece_lengths.tolist() == [len(pieces) for pieces in text]


def test_without_continuations_every_piece_is_a_word() -> None:
    groups = word_groups(Ragged.of([[3, 1], [], [3]]), np.zeros(4, dtype=bool))
    assert lists(groups.word_of_piece) == lists(groups.first_piece) == [[0, 1], [], [0]]
    assert lists(groups.words) == [[1, 0], [], [1]]


def test_a_sequence_starts_a_word_with_whatever_piece() -> None:
    groups = word_groups(Ragged.of([[2, 3], [3]]), CONTINUATION)
    assert lists(groups.word_of_piece) == [[0, 0], [0]]
    assert lists(groups.first_piece) == [[0], [0]]


@pytest.mark.parametrize("text", [[], [[]], [[], []]])
def test_text_without_pieces_has_no_words(text: Sentences) -> None:
    groups = word_groups(Ragged.of(text), CONTINUATION)
    assert lists(groups.words) == lists(groups.word_of_piece) == lists(groups.first_piece) == text


def test_word_links_are_projected_by_hand() -> None:
    continuation = np.asarray([False, True])
    output = word_groups(Ragged.of([[0, 1, 1, 0], [], [0, 0, 1]]), continuation)
    given_words = word_groups(Ragged.of([[0, 0, 1], [0], [0, 1, 1]]), continuation)
    projected = project_to_pieces(Ragged.of([[1, -1], [], [-1, 0]]), output=output, given=given_words)
    assert lists(projected) == [[1, 2, 2, -1], [], [-1, 0, 1]]


@given(output=texts, given_text=texts, data=st.data())
def test_a_piece_takes_the_piece_of_its_own_rank(output: Sentences, given_text: Sentences, data: st.DataObject) -> None:
    count = min(len(output), len(given_text))
    output, given_text = output[:count], given_text[:count]
    links, wanted = [], []
    for y, x in zip(map(split_by_hand, output), map(split_by_hand, given_text)):
        row = data.draw(st.lists(st.integers(-1, len(x) - 1), min_size=len(y), max_size=len(y)))
        links.append(row)
        wanted.append(
            [
                x[i][min(rank, len(x[i]) - 1)] if i >= 0 else -1
                for i, places in zip(row, y)
                for rank in range(len(places))
            ]
        )
    projected = project_to_pieces(Ragged.of(links), output=groups_of(output), given=groups_of(given_text))
    assert lists(projected) == wanted


def groups_of(text: Sentences) -> WordGroups:
    return word_groups(Ragged.of(text), CONTINUATION)


def test_missing_continuation_marks_are_refused() -> None:
    with pytest.raises(DataError, match="expected piece ids below 2, found 2; give a continuation mark"):
        word_groups(Ragged.of([[0, 2]]), np.zeros(2, dtype=bool))
