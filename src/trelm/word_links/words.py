"""Words as groups of pieces, and links of words as links of pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.ragged import Ragged
from trelm.errors import data_error
from trelm.word_links.cells import IntArray


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


def word_groups(ids: Ragged, is_continuation: NDArray[np.bool_]) -> WordGroups:
    """Group pieces into words: a word is a piece and the continuations after it; a sequence starts with a new word.

    Args:
        ids: piece ids; is_continuation: bool [V].

    Raises:
        DataError: `is_continuation` is too short for an id.
    """
    values = np.asarray(ids.values)
    if len(values) and int(values.max()) >= len(is_continuation):
        raise data_error(
            "word links",
            None,
            expected=f"piece ids below {len(is_continuation)}",
            found=str(int(values.max())),
            hint="give a continuation mark for every piece",
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
