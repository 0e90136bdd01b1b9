"""Start tables written small: a sparse mixture of source rows as its weights, any other table as rows in a pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from trelm.comparison.portable_packing import Record, pack_array, unpack_array
from trelm.errors import ComparisonError
from trelm.initialisation import Initialisation, Mixture, SourceTables, complete
from trelm.initialisation.mixture import Fallback

BYTES_A_WEIGHT = 10  # a weight and its column, before compression
FEW = 4  # weights for each different one, from which on a book of these is smaller


def halved(values: NDArray[Any], what: str) -> NDArray[np.float16]:
    """The numbers in half precision.

    Raises:
        ComparisonError: one lies beyond its range.
    """
    with np.errstate(over="ignore"):
        small = values.astype(np.float16)
    if not np.isfinite(small).all():
        raise ComparisonError(
            f"--prepare: expected numbers of at most 65,504 in {what}, which half precision can hold, found greater "
            "ones; compare on one machine, without --prepare"
        )
    return small


class RowPool:
    """Rows in half precision, each once, whichever tables have it; rows that are the source's own are not among them.

    Args:
        source: float32 [V_s, d], the source's table where it is carried, else None.
    """

    def __init__(self, source: NDArray[np.float32] | None) -> None:
        self._own: dict[bytes, int] = {}
        self._of_source: dict[bytes, int] = {}
        if source is not None:
            self._of_source = {row.tobytes(): number for number, row in enumerate(source)}

    def places(self, table: NDArray[np.float32]) -> NDArray[np.int32]:
        """int32 [V]: where each row of a table lies: in the pool, or at -1 - n that of row n of the source."""
        found = np.empty(len(table), dtype=np.int32)
        for number, (row, small) in enumerate(zip(np.ascontiguousarray(table), halved(table, "the start tables"))):
            place = self._of_source.get(row.tobytes())
            found[number] = self._own.setdefault(small.tobytes(), len(self._own)) if place is None else -1 - place
        return found

    def pack(self, width: int, folder: Path) -> Record:
        """Write the pool, float16 [rows, width]."""
        joined = np.frombuffer(b"".join(self._own), dtype=np.float16)
        return pack_array(joined.reshape(len(self._own), width), folder)


def table_at(
    places: NDArray[np.int32], pool: NDArray[np.float16], source: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """float32 [V, d]: the table whose rows lie at `places`."""
    table = np.empty((len(places), pool.shape[1]), dtype=np.float32)
    table[places >= 0] = pool[places[places >= 0]]
    if source is not None:
        table[places < 0] = source[-1 - places[places < 0]]
    return table


def pack_rows(made: Initialisation, words: RowPool, outputs: RowPool, folder: Path) -> Record:
    """The tables of one start; the pools are written when all have been seen."""
    return {
        "words": pack_array(words.places(made.words), folder),
        "outputs": None if made.outputs is None else pack_array(outputs.places(made.outputs), folder),
        "bias": None if made.bias is None else pack_array(made.bias, folder),
        "provenance": pack_array(made.provenance, folder),
    }


def is_small(mixture: Mixture, tables: SourceTables) -> bool:
    """Whether a mixture's weights take fewer bytes than its rows in half precision."""
    width = tables.words.shape[1] + (0 if tables.outputs is None else tables.outputs.shape[1])
    return bool(mixture.weights.nnz * BYTES_A_WEIGHT < mixture.weights.shape[0] * width * 2)


def pack_mixture(mixture: Mixture, fallback: Fallback, folder: Path) -> Record:
    """A mixture, exactly; its rows are made, and what it lacks is drawn, where it is unpacked."""
    weights = mixture.weights
    book, codes = np.unique(weights.data, return_inverse=True)
    if len(book) * FEW > len(codes):
        book, codes = weights.data, np.zeros(0, dtype=np.int64)
    arrays = {"ends": weights.indptr, "columns": weights.indices, "book": book, "codes": codes}
    packed = {name: pack_array(array, folder) for name, array in arrays.items()}
    shape = [int(size) for size in weights.shape]
    return packed | {"provenance": pack_array(mixture.provenance, folder), "shape": shape, "fallback": fallback}


def unpack_mixture(record: Record, folder: Path) -> Mixture:
    """What `pack_mixture` was given."""
    ends, columns, book, codes = (unpack_array(record[name], folder) for name in ("ends", "columns", "book", "codes"))
    data = book[codes] if len(codes) else book
    return Mixture(
        csr_matrix((data, columns, ends), shape=tuple(record["shape"])), unpack_array(record["provenance"], folder)
    )


def unpack_start(record: Record, folder: Path, tables: SourceTables | None, pools: Record, seed: int) -> Initialisation:
    """The start tables of a cell.

    Args:
        record: from `pack_rows` under `rows`, or from `pack_mixture` under `mixture`. tables: the source's, where they
            are carried. pools: from `RowPool.pack`, by table. seed: of drawn rows.
    """
    if "mixture" in record:
        if tables is None:
            raise ValueError("a mixture of source rows cannot be made without the source's tables")
        mixture = unpack_mixture(record["mixture"], folder)
        return complete(mixture, tables, seed, fallback=record["mixture"]["fallback"])
    rows = record["rows"]

    def table(name: str) -> NDArray[np.float32]:
        source = None if tables is None else getattr(tables, name)
        return table_at(unpack_array(rows[name], folder), unpack_array(pools[name], folder), source)

    return Initialisation(
        table("words"),
        None if rows["outputs"] is None else table("outputs"),
        None if rows["bias"] is None else unpack_array(rows["bias"], folder),
        unpack_array(rows["provenance"], folder),
    )
