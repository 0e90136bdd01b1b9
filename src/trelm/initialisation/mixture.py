"""The new vocabulary's rows as mixtures of the source encoder's, and the tables that come of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.sparse import csr_matrix, diags

from trelm.initialisation.drawing import multivariate_rows, random_rows
from trelm.workspace import atomic_path, write_json

PROVENANCES = ("special", "linked", "shared", "mapped", "random", "pieces", "neighbours")
SPECIAL, LINKED, SHARED, MAPPED, RANDOM, PIECES, NEIGHBOURS = range(len(PROVENANCES))
_TOLERANCE = 1e-9  # of a row's sum: float64 weights of some thousand entries, each rounded once

Fallback = Literal["random", "multivariate"]
_DRAW: dict[str, Callable[[int, NDArray[np.float32], int], NDArray[np.float32]]] = {
    "random": random_rows,
    "multivariate": multivariate_rows,
}


@dataclass(frozen=True)
class SourceTables:
    """What the source encoder has for each entry of its vocabulary, in the order of its tokenizer's ids.

    Attributes:
        words: [V_s, d], the raw word table; rows beyond the tokenizer's entries, which some checkpoints have, may stay.
        outputs: [V_s, d'], the output layer's table where it is one of its own, else None.
        bias: [V_s], the masked-LM head's output bias; None where the checkpoint has no head.
    """

    words: NDArray[np.float32]
    outputs: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None


@dataclass(frozen=True)
class Mixture:
    """Each row of the new vocabulary as a convex mixture of source rows.

    Attributes:
        weights: float64 [V, V_s], none negative; a row sums to 1, or is empty where the method has nothing.
        provenance: int8 [V], index into `PROVENANCES`; RANDOM where the row is empty, and only there.

    Raises:
        ValueError: it is not so.
    """

    weights: csr_matrix
    provenance: NDArray[np.int8]

    def __post_init__(self) -> None:
        if self.provenance.shape != self.weights.shape[:1]:
            raise ValueError(
                f"mixture: expected a provenance for each of {self.weights.shape[0]} rows, "
                f"found shape {self.provenance.shape}"
            )
        data = self.weights.data
        if not (np.isfinite(data).all() and (data >= 0).all()):
            raise ValueError("mixture: expected finite weights of 0 or more, found others")
        totals = np.asarray(self.weights.sum(axis=1)).ravel()
        if (np.abs(totals - 1) > _TOLERANCE)[self.covered].any():
            raise ValueError("mixture: expected rows that sum to 1 or are empty, found another sum")
        if not np.array_equal(self.covered, self.provenance != RANDOM):
            raise ValueError(
                "mixture: expected the provenance 'random' for empty rows and no others, found it elsewhere"
            )

    @property
    def covered(self) -> NDArray[np.bool_]:
        """bool [V]: the rows that the method has something for."""
        flags: NDArray[np.bool_] = np.diff(self.weights.indptr) > 0
        return flags

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each provenance, every one of `PROVENANCES` named."""
        return _counts(self.provenance)

    def of(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mixture of a source table's rows, [V, d] (or of a vector's entries, [V]); zero where a row is empty.

        Raises:
            ValueError: the table has fewer rows than the mixture draws from.
        """
        width = self.weights.shape[1]
        if len(table) < width:
            raise ValueError(f"mixture: expected a source table of {width} rows, found {len(table)}")
        return _single(self.weights @ table[:width].astype(np.float64))


@dataclass(frozen=True)
class Initialisation:
    """The new vocabulary's tables before training.

    Attributes:
        words: [V, d]. outputs: [V, d'] where the source's output layer has a table of its own, else None.
        bias: [V], the same mixture of the source's biases (as RAMEN does, Tran 2020), the source's mean for a row that
            is no mixture; None where the source has none.
        provenance: int8 [V], index into `PROVENANCES`.
    """

    words: NDArray[np.float32]
    outputs: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None
    provenance: NDArray[np.int8]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each provenance, every one of `PROVENANCES` named."""
        return _counts(self.provenance)

    def save(self, folder: Path) -> None:
        """Write `table.safetensors`, and the counts for people in `provenance.json`."""
        given = {"words": self.words, "outputs": self.outputs, "bias": self.bias, "provenance": self.provenance}
        with atomic_path(folder / "table.safetensors") as temporary:
            save_file({name: np.ascontiguousarray(a) for name, a in given.items() if a is not None}, temporary)
        write_json(folder / "provenance.json", {"codes": dict(enumerate(PROVENANCES)), "counts": self.counts})

    @staticmethod
    def load(folder: Path) -> Initialisation:
        """Read what `save` wrote."""
        arrays = load_file(folder / "table.safetensors")
        return Initialisation(arrays["words"], arrays.get("outputs"), arrays.get("bias"), arrays["provenance"])


def normalised(weights: csr_matrix, provenance: int) -> Mixture:
    """The mixture whose rows are those of `weights` divided by their sums; rows that sum to 0 are empty.

    Args:
        weights: [V, V_s], none negative; entries given twice add up. It is not changed.
        provenance: of the rows that are not empty.

    Raises:
        ValueError: a weight is negative or not finite.
    """
    scaled = csr_matrix(weights, dtype=np.float64, copy=True)
    scaled.sum_duplicates()
    if not (np.isfinite(scaled.data).all() and (scaled.data >= 0).all()):
        raise ValueError("mixture: expected finite weights of 0 or more, found others")
    _divide(scaled, np.asarray(scaled.sum(axis=1)).ravel())
    scaled.eliminate_zeros()
    return Mixture(scaled, _marked(np.diff(scaled.indptr) > 0, provenance))


def one_hot(pairs: NDArray[np.int64], shape: tuple[int, int], provenance: int) -> Mixture:
    """Rows that copy one source row each.

    Args:
        pairs: int64 [p, 2], row of the new vocabulary and row of the source's; of a row given twice the last counts.
        shape: (V, V_s).

    Raises:
        ValueError: a pair lies outside the shape.
    """
    _check_pairs(pairs, shape, "one_hot")
    source_row = np.full(shape[0], -1, dtype=np.int64)
    source_row[pairs[:, 0]] = pairs[:, 1]
    rows = np.flatnonzero(source_row >= 0)
    weights = csr_matrix((np.ones(len(rows)), (rows, source_row[rows])), shape=shape)
    return Mixture(weights, _marked(source_row >= 0, provenance))


def from_pairs(
    pairs: NDArray[np.int64], weights: NDArray[np.floating], shape: tuple[int, int], provenance: int
) -> Mixture:
    """Rows that mix source rows in proportion to weights.

    Args:
        pairs: int64 [p, 2], row of the new vocabulary and row of the source's. weights: [p], none negative.
        shape: (V, V_s).

    Raises:
        ValueError: a pair lies outside the shape, or a weight is negative or not finite.
    """
    _check_pairs(pairs, shape, "from_pairs")
    if weights.shape != pairs.shape[:1]:
        raise ValueError(f"from_pairs: expected {len(pairs)} weights, found shape {weights.shape}")
    return normalised(csr_matrix((weights.astype(np.float64), (pairs[:, 0], pairs[:, 1])), shape=shape), provenance)


def nothing(shape: tuple[int, int]) -> Mixture:
    """The mixture that has nothing for any row; `complete` makes `random` and `multivariate` of it."""
    return Mixture(csr_matrix(shape, dtype=np.float64), _marked(np.zeros(shape[0], dtype=np.bool_), RANDOM))


def overlay(first: Mixture, *others: Mixture) -> Mixture:
    """Each row from the first mixture that has one.

    Raises:
        ValueError: the shapes differ.
    """
    weights, provenance = first.weights, first.provenance
    for other in others:
        if other.weights.shape != weights.shape:
            raise ValueError(
                f"overlay: expected mixtures of one shape, found {weights.shape} and {other.weights.shape}"
            )
        new = other.covered & (provenance == RANDOM)
        weights = csr_matrix(weights + restricted(other, new).weights)
        provenance = np.where(new, other.provenance, provenance)
    return Mixture(weights, provenance)


def restricted(mixture: Mixture, rows: NDArray[np.bool_]) -> Mixture:
    """The mixture with its rows outside `rows` (bool [V]) emptied."""
    kept = csr_matrix(diags(rows.astype(np.float64)) @ mixture.weights)
    kept.eliminate_zeros()
    return Mixture(kept, np.where(rows, mixture.provenance, RANDOM).astype(np.int8))


def complete(mixture: Mixture, tables: SourceTables, seed: int, *, fallback: Fallback = "random") -> Initialisation:
    """The tables of a mixture, with drawn rows where it is empty: N(mean, deviation of each dimension) for `random`,
    N(mean, full covariance) for `multivariate`.

    Raises:
        ValueError: the source tables do not fit together or to the mixture.
    """
    return _assembled(mixture, tables, seed, fallback, None)


def assemble(
    mixture: Mixture,
    tables: SourceTables,
    seed: int,
    *,
    mapped: NDArray[np.float32],
    has_vector: NDArray[np.bool_],
    fallback: Fallback = "random",
) -> Initialisation:
    """METHOD section 4: the mixture's rows; mapped vectors `X W^T` where it has none; drawn rows for the rest.

    On an output side of its own the mapped rows are carried over by the least-squares map between the source's two
    tables.

    Args:
        mapped: [V, d]; rows where `has_vector` (bool [V]) is False are not looked at.

    Raises:
        ValueError: the shapes do not fit together, or a mapped row with a vector is not finite.
    """
    expected = (mixture.weights.shape[0], tables.words.shape[1])
    if mapped.shape != expected or has_vector.shape != expected[:1]:
        raise ValueError(
            f"assemble: expected mapped {expected} and has_vector {expected[:1]}, "
            f"found {mapped.shape} and {has_vector.shape}"
        )
    used = has_vector & ~mixture.covered
    if not np.isfinite(mapped[has_vector]).all():
        raise ValueError("assemble: expected finite mapped vectors, found NaN or infinity; the alignment has diverged")
    return _assembled(mixture, tables, seed, fallback, (used, np.where(has_vector[:, None], mapped, 0)))


def _assembled(
    mixture: Mixture,
    tables: SourceTables,
    seed: int,
    fallback: Fallback,
    mapped: tuple[NDArray[np.bool_], NDArray[np.float32]] | None,
) -> Initialisation:
    _check_tables(tables)
    used, vectors = mapped if mapped is not None else (None, None)
    outputs = None
    if tables.outputs is not None:
        carried = None if vectors is None else through(vectors, tables.words, tables.outputs)
        outputs = _rows(mixture, tables.outputs, seed, fallback, used, carried)
    provenance = mixture.provenance if used is None else np.where(used, MAPPED, mixture.provenance).astype(np.int8)
    words = _rows(mixture, tables.words, seed, fallback, used, vectors)
    return Initialisation(words, outputs, None if tables.bias is None else _bias(mixture, tables.bias), provenance)


def _rows(
    mixture: Mixture,
    table: NDArray[np.float32],
    seed: int,
    fallback: Fallback,
    used: NDArray[np.bool_] | None,
    vectors: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    rows = _DRAW[fallback](mixture.weights.shape[0], table, seed)
    if used is not None and vectors is not None:
        rows[used] = vectors[used]
    rows[mixture.covered] = mixture.of(table)[mixture.covered]
    return rows


def _bias(mixture: Mixture, bias: NDArray[np.float32]) -> NDArray[np.float32]:
    mean = bias.mean(dtype=np.float64)
    return np.where(mixture.covered, mixture.of(bias), mean).astype(np.float32)


def _single(mixed: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 of the numbers rounded to 44 bits of mantissa. It changes the array.

    Checkpoints that were kept in half precision have means that lie midway between two float32 numbers (0.1% of those
    by word links). The 8 bits that fall away, in which only the rounding of the weights shows, would choose
    between the two.
    """
    bits = mixed.view(np.int64)
    bits += 1 << 7
    bits &= -(1 << 8)
    return mixed.astype(np.float32)


def _check_tables(tables: SourceTables) -> None:
    size = len(tables.words)
    others = [part.shape[0] for part in (tables.outputs, tables.bias) if part is not None]
    if any(other != size for other in others):
        raise ValueError(f"source tables: expected {size} rows in each, found {', '.join(map(str, others))}")


def _check_pairs(pairs: NDArray[np.int64], shape: tuple[int, int], who: str) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs < 0).any() or (pairs >= np.array(shape)).any():
        raise ValueError(f"{who}: expected pairs of a row below {shape[0]} and a source row below {shape[1]}")


def _divide(weights: csr_matrix, divisors: NDArray[np.float64]) -> None:
    """Divide each row of the matrix itself by its divisor; rows of zeros stay."""
    weights.data /= np.repeat(np.where(divisors > 0, divisors, 1.0), np.diff(weights.indptr))


def _marked(covered: NDArray[np.bool_], provenance: int) -> NDArray[np.int8]:
    return np.where(covered, provenance, RANDOM).astype(np.int8)


def _counts(provenance: NDArray[np.int8]) -> dict[str, int]:
    return dict(zip(PROVENANCES, np.bincount(provenance, minlength=len(PROVENANCES)).tolist(), strict=True))


def through(
    rows: NDArray[np.float32], source_table: NDArray[np.float32], output_table: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Rows of the input side carried to the output side by the least-squares map between the encoder's two tables.

    Args:
        rows: [V, d]. source_table, output_table: [V_s, d], row by row of the same entries.

    Returns:
        [V, d].
    """
    solution = np.linalg.lstsq(source_table.astype(np.float64), output_table.astype(np.float64), rcond=None)[0]
    carried: NDArray[np.float32] = (rows.astype(np.float64) @ solution).astype(np.float32)
    return carried
