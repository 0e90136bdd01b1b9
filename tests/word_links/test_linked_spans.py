"""Spans of another tokenizer's tokens, against loops over characters."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trelm.word_links.spans import NO_LINK, linked_spans, overlapping

LENGTH = 14


@st.composite
def tokens(draw: st.DrawFn) -> NDArray[np.int64]:
    """Tokens of a text of 14 characters, in order: some leave characters out, share one, or have none."""
    bounds = sorted(draw(st.lists(st.integers(0, LENGTH), max_size=9)))
    spans = [(first, last) for first, last in pairwise(bounds) if draw(st.booleans())]
    shared = [span for span in spans for _ in range(draw(st.integers(1, 2)))]  # bytes of one character, as two tokens
    return np.array(shared, dtype=np.int64).reshape(-1, 2)


def sharing(one: NDArray[np.int64], others: NDArray[np.int64]) -> list[int]:
    """Places of the tokens that have a character of `one`, by looking at each; of empty ones those inside it."""
    first, last = one
    return [
        place
        for place, other in enumerate(others)
        if {*range(first, last)} & {*range(*other)} or (other[0] == other[1] and first < other[0] < last)
    ]


@given(tokens(), tokens())
def test_overlapping_tokens_are_those_that_share_a_character(own: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    start, end = overlapping(own, other)
    assert start.shape == end.shape == (len(own),)
    for one, first, last in zip(own, start, end):
        expected = sharing(one, other)
        if expected:
            assert (first, last) == (expected[0], expected[-1] + 1)
        else:
            assert first == last


@given(st.data())
def test_a_position_is_linked_to_what_covers_its_partner(data: st.DataObject) -> None:
    own, other = data.draw(tokens()), data.draw(tokens())
    partners = st.integers(NO_LINK, len(own) - 1)
    links = np.array(data.draw(st.lists(partners, max_size=8)), dtype=np.int32)
    start, end = linked_spans(links, own, other)
    assert start.dtype == end.dtype == np.int32
    for link, first, last in zip(links, start, end, strict=True):
        expected = sharing(own[link], other) if link != NO_LINK else []
        assert (first, last) == ((expected[0], expected[-1] + 1) if expected else (NO_LINK, NO_LINK))


def test_spans_by_hand() -> None:
    """The text "unhappy cats" as un|happy|cats and as unhap|py| cats: two tokens cover what is linked to `happy`."""
    own = np.array([(0, 2), (2, 7), (8, 12)])
    other = np.array([(0, 5), (5, 7), (7, 12)])
    start, end = linked_spans(np.array([2, NO_LINK, 1, 0], dtype=np.int32), own, other)
    assert start.tolist() == [2, -1, 0, 0]
    assert end.tolist() == [3, -1, 2, 1]
