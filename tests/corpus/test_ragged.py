"""Ragged arrays against plain lists."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm.corpus.ragged import Ragged, written

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
    assert isinstance(loaded.offsets, np.memmap)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.offsets.npy", "ids.values.npy"]


@settings(max_examples=30)
@given(st.lists(SEQUENCES, max_size=4))
def test_what_is_written_in_chunks_is_what_is_saved_at_once(chunks: list[list[list[int]]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = Ragged.of([sequence for chunk in chunks for sequence in chunk])
        whole.save(folder, "whole")
        with written(folder, "parts") as writer:
            for chunk in chunks:
                part = Ragged.of(chunk)
                writer.append(part.values, part.lengths())
        assert (writer.sequences, writer.tokens) == (len(whole), len(whole.values))
        for kind in ("values", "offsets"):
            parts = folder / f"parts.{kind}.npy"
            assert np.array_equal(np.load(parts), np.load(folder / f"whole.{kind}.npy"))
            assert parts.read_bytes() == (folder / f"whole.{kind}.npy").read_bytes()
        assert len(list(folder.iterdir())) == 4


def test_what_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    def break_off() -> None:
        with written(tmp_path, "ids") as writer:
            writer.append(np.ones(3, dtype=np.int32), np.array([3]))
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert list(tmp_path.iterdir()) == []


@given(SEQUENCES.filter(bool), st.data())
def test_sequences_and_lengths_at(sequences: list[list[int]], data: st.DataObject) -> None:
    indices = np.array(data.draw(st.lists(st.integers(0, len(sequences) - 1))), dtype=np.int64)
    ragged = Ragged.of(sequences)
    assert [row.tolist() for row in ragged.sequences(indices)] == [sequences[index] for index in indices]
    assert ragged.lengths_at(indices).tolist() == [len(sequences[index]) for index in indices]


def test_reading_a_mapped_file_does_not_keep_it_in_memory(tmp_path: Path) -> None:
    Ragged(np.zeros(2**23, dtype=np.int32), np.arange(0, 2**23 + 1, 64)).save(tmp_path, "ids")
    loaded = Ragged.load(tmp_path, "ids")

    def resident() -> int:
        """Kilobytes of the file that this process has mapped, as Linux counts them."""
        parts = Path("/proc/self/smaps").read_text(encoding="ascii").split("ids.values.npy")
        return int(re.findall(r"Rss: +(\d+)", parts[1])[0])

    if not Path("/proc/self/smaps").exists():
        pytest.skip("only Linux tells")
    assert len(loaded.sequences(np.arange(len(loaded)))) == 2**17
    assert resident() < 1000
    assert int(loaded.values.sum()) == 0
    assert resident() > 30_000
