"""Many short integer sequences in two flat arrays, memory-mapped from disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trelm.workspace import atomic_path


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
        """Length of each sequence."""
        return np.diff(self.offsets)

    def lengths_at(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Length of each of the sequences at `indices`."""
        return self.offsets[indices + 1] - self.offsets[indices]

    def take(self, indices: NDArray[np.int64]) -> Ragged:
        """The sequences at `indices`, in that order."""
        return Ragged.of([self[int(i)] for i in indices])

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
        """Map what `save` wrote into memory; nothing is unpickled."""
        values, offsets = (
            np.load(folder / f"{name}.{part}.npy", mmap_mode="r" if part == "values" else None, allow_pickle=False)
            for part in ("values", "offsets")
        )
        return Ragged(values, offsets)
