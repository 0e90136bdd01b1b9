"""Many short integer sequences in two flat arrays, memory-mapped from disk."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trelm.corpus.mapped import let_go
from trelm.errors import RunFolderError, first_line
from trelm.workspace import atomic_path

_KINDS = {"values": "<i4", "offsets": "<i8"}
_HEADER = 128  # bytes, as `numpy.save` takes for arrays of one dimension
_CHUNK = 2**20  # offsets that are looked at together


@dataclass(frozen=True)
class Ragged:
    """Sequence `i` is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: int32, all sequences end to end.
        offsets: int64, one more than there are sequences; the first is 0.
    """

    values: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> NDArray[np.int64]:
        """Length of each sequence: eight bytes a sequence."""
        return np.diff(self.offsets)

    def lengths_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Length of each of the sequences at `indices`."""
        offsets = np.asarray(self.offsets)
        lengths = offsets[indices + 1] - offsets[indices]
        let_go(self.offsets)
        return lengths

    def sequences(self, indices: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """Copies of the sequences at `indices`; what was mapped into memory to read them is let go."""
        values, offsets = np.asarray(self.values), np.asarray(self.offsets)
        bounds = zip(offsets[indices].tolist(), offsets[indices + 1].tolist())
        found = [values[start:end].copy() for start, end in bounds]
        let_go(self.values)
        let_go(self.offsets)
        return found

    def take(self, indices: NDArray[np.int64]) -> Ragged:
        """The sequences at `indices`, in that order."""
        return Ragged.of(self.sequences(np.asarray(indices)))

    @staticmethod
    def of(sequences: Iterable[Sequence[int] | NDArray[np.int32]]) -> Ragged:
        """Pack sequences."""
        arrays = [np.asarray(sequence, dtype=np.int32) for sequence in sequences]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=offsets[1:])
        return Ragged(np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32), offsets)

    def save(self, folder: Path, name: str) -> None:
        """Write `<name>.values.npy` and `<name>.offsets.npy`."""
        for part, array in (("values", self.values), ("offsets", self.offsets)):
            with atomic_path(folder / f"{name}.{part}.npy") as temporary, temporary.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)

    @staticmethod
    def load(folder: Path, name: str) -> Ragged:
        """Map what `save` or `written` wrote into memory; nothing is unpickled.

        Raises:
            RunFolderError: a file is missing or damaged, or the two do not belong together.
        """
        values, offsets = (_mapped(folder / f"{name}.{part}.npy", kind) for part, kind in _KINDS.items())
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values) or not _rise(offsets):
            raise RunFolderError(
                f"{folder / name}.offsets.npy: expected the bounds of {len(values):,} values, found others; remove the "
                "folder and run again"
            )
        return Ragged(values, offsets)


def _mapped(path: Path, kind: str) -> NDArray[Any]:
    """An array of one dimension, mapped into memory."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.ndim == 1 and array.dtype == kind:
            return array  # type: ignore[no-any-return]
        found = f"{array.ndim} dimensions of {array.dtype}"
    except Exception as error:  # NumPy parses the header by Python's own tokenizer, which raises what it likes
        found = f"an error ({first_line(error)})"
    raise RunFolderError(f"{path}: expected a row of {kind}, found {found}; remove the folder and run again")


def _rise(offsets: NDArray[np.int64]) -> bool:
    """Whether none is lower than the one before it."""
    for start in range(0, len(offsets), _CHUNK):
        if (np.diff(offsets[start : start + _CHUNK + 1]) < 0).any():
            return False
        let_go(offsets)
    return True


class RaggedWriter:
    """Appends sequences to the two files that `Ragged.load` reads, and keeps none of them.

    Attributes:
        sequences, tokens: how many have been written.
    """

    def __init__(self, values: BinaryIO, offsets: BinaryIO) -> None:
        self._values, self._offsets = values, offsets
        self.sequences = self.tokens = 0
        for stream in (values, offsets):
            stream.write(bytes(_HEADER))
        offsets.write(np.zeros(1, dtype="<i8").tobytes())

    def append(self, values: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        """Append sequences [n] of these lengths, their values end to end."""
        self._values.write(values.astype("<i4").tobytes())
        self._offsets.write((self.tokens + np.cumsum(lengths)).astype("<i8").tobytes())
        self.sequences += len(lengths)
        self.tokens += len(values)

    def finish(self) -> None:
        """Write the headers, which say how much there is."""
        for stream, kind, count in (
            (self._values, "<i4", self.tokens),
            (self._offsets, "<i8", self.sequences + 1),
        ):
            stream.seek(0)
            stream.write(_header(kind, count))


@contextmanager
def written(folder: Path, name: str) -> Iterator[RaggedWriter]:
    """A writer for `<name>.values.npy` and `<name>.offsets.npy`, which are there when the block ends well."""
    with (
        atomic_path(folder / f"{name}.values.npy") as values,
        atomic_path(folder / f"{name}.offsets.npy") as offsets,
        values.open("wb") as values_stream,
        offsets.open("wb") as offsets_stream,
    ):
        writer = RaggedWriter(values_stream, offsets_stream)
        yield writer
        writer.finish()


def _header(kind: str, count: int) -> bytes:
    """The head of an .npy file (format 1.0) for an array [count]."""
    described = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({count},), }}"
    body = described.ljust(_HEADER - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body.encode("latin-1")
