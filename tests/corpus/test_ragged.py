"""Ragged arrays against plain lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.ragged import Ragged

SEQUENCES = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6), max_size=8)


def plain(ragged: Ragged) -> list[list[int]]:
    return [ragged[index].tolist() for index in range(len(ragged))]


@given(SEQUENCES)
def test_sequences_come_back(sequences: list[list[int]]) -> None:
    ragged = Ragged.of(sequences)
    assert plain(ragged) == sequences
    assert ragged.lengths().tolist() == [len(sequence) for sequence in sequences]
    assert (ragged.values.dtype, ragged.offsets.dtype) == (np.int32, np.int64)


@given(SEQUENCES.filter(bool), st.data())
def test_take(sequences: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(sequences) - 1)))
    taken = Ragged.of(sequences).take(np.array(indices, dtype=np.int64))
    assert plain(taken) == [sequences[index] for index in indices]


def test_saved_values_are_mapped_into_memory(tmp_path: Path) -> None:
    sequences = [[1, 2, 3], [], [4]]
    Ragged.of(sequences).save(tmp_path, "ids")
    loaded = Ragged.load(tmp_path, "ids")
    assert plain(loaded) == sequences
    assert isinstance(loaded.values, np.memmap)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.offsets.npy", "ids.values.npy"]
