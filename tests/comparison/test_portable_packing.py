"""Arrays, records and start tables come back as they were given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.sparse import csr_matrix

from trelm.comparison.portable_packing import classes_within, pack_array, pack_value, unpack_array, unpack_value
from trelm.comparison.portable_rows import (
    RowPool,
    halved,
    is_small,
    pack_mixture,
    pack_rows,
    table_at,
    unpack_mixture,
    unpack_start,
)
from trelm.comparison.portable_writing import size_warning
from trelm.corpus.ragged import Ragged
from trelm.errors import ComparisonError
from trelm.initialisation import Initialisation, Mixture, SourceTables, complete, normalised
from trelm.stages import StageData
from trelm.training.batches import Vocabulary

KINDS = st.sampled_from([np.int8, np.int32, np.int64, np.uint16, np.float16, np.float32, np.float64, np.bool_])
SHAPES = arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9)
QUICK = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(KINDS.flatmap(lambda kind: arrays.arrays(kind, SHAPES)))
def test_an_array_comes_back_bit_for_bit(tmp_path: Path, array: Any) -> None:
    if array.dtype == np.int64:
        array = array >> 2  # differences of greater ones do not fit
    found = unpack_array(pack_array(array, tmp_path), tmp_path)
    assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_equal_arrays_are_there_once_and_ids_take_two_bytes(tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 40_000, 5000).astype(np.int32)
    first, second = pack_array(ids, tmp_path), pack_array(ids.copy(), tmp_path)
    assert first == second
    (file,) = tmp_path.iterdir()
    assert first["stored"] == "uint16"
    assert file.stat().st_size < 2.1 * len(ids)
    offsets = pack_array(np.cumsum(ids.astype(np.int64)), tmp_path)
    assert (offsets["rises"], offsets["stored"]) == (True, "uint16")


@dataclass(frozen=True)
class Inner:
    texts: Ragged
    weights: dict[str, float]


@dataclass(frozen=True)
class Outer:
    first: Ragged
    inner: Inner | None
    several: tuple[int, ...]
    names: list[str]


def test_dataclasses_within_dataclasses_come_back(tmp_path: Path) -> None:
    text = Ragged.of([[1, 2, 3], [], [70_000]])
    for inner in (None, Inner(Ragged.of([[-1, 5]]), {"a": 0.5})):
        packed = pack_value(Outer(text, inner, (1, 2), ["x"]), tmp_path)
        found = unpack_value(packed, tmp_path, classes_within(Outer))
        assert (found.several, found.names, type(found)) == ((1, 2), ["x"], Outer)
        assert found.first[0].tolist() == [1, 2, 3]
        assert len(found.first) == 3
        assert (found.inner is None) == (inner is None)
    assert (found.inner.texts[0].tolist(), found.inner.weights) == ([-1, 5], {"a": 0.5})


def test_what_stages_read_is_known_whole() -> None:
    assert {"StageData": StageData, "Ragged": Ragged, "Vocabulary": Vocabulary}.items() <= classes_within(
        StageData
    ).items()


def test_what_is_no_plain_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected plain values, arrays and dataclasses of them, found set"):
        pack_value({"a": {1}}, tmp_path)


def test_numbers_beyond_half_precision_are_refused() -> None:
    assert halved(np.array([65_504.0, 1e-9]), "a").tolist() == [65_504.0, 0.0]
    with pytest.raises(ComparisonError, match="at most 65,504 in the word table, which half precision can hold"):
        halved(np.array([1e5]), "the word table")


SOURCE = np.random.default_rng(2).normal(size=(6, 4)).astype(np.float16).astype(np.float32)


def test_rows_come_back_rounded_and_copies_of_the_source_as_they_are(tmp_path: Path) -> None:
    drawn = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    exact = SOURCE * np.float32(1 + 2**-20)  # no copies
    first = np.concatenate([SOURCE[[4, 4, 0]], drawn, exact[:1]])
    second = np.concatenate([drawn[1:], SOURCE[[5]]])
    pool = RowPool(SOURCE)
    places = [pool.places(table) for table in (first, second)]
    packed = unpack_array(pool.pack(4, tmp_path), tmp_path)
    assert len(packed) == 4  # the second table adds none
    for table, place in zip((first, second), places):
        assert np.array_equal(table_at(place, packed, SOURCE), table.astype(np.float16).astype(np.float32))
    alone = RowPool(None)
    place = alone.places(first)
    assert np.array_equal(
        table_at(place, unpack_array(alone.pack(4, tmp_path), tmp_path), None), first.astype(np.float16)
    )


def mixture(random: np.random.Generator, many: int) -> Mixture:
    weights = random.integers(0, many, size=(9, 6)) * (random.random((9, 6)) < 0.5)
    weights[3] = 0
    return normalised(csr_matrix(weights.astype(np.float64)), 1)


@pytest.mark.parametrize("many", [2, 10_000])
@pytest.mark.parametrize("fallback", ["random", "multivariate"])
def test_a_mixture_comes_back_exactly_and_draws_by_the_seed(tmp_path: Path, many: int, fallback: Any) -> None:
    given_ = mixture(np.random.default_rng(many), many)
    record = pack_mixture(given_, fallback, tmp_path)
    found = unpack_mixture(record, tmp_path)
    assert (found.weights != given_.weights).nnz == 0
    assert np.array_equal(found.provenance, given_.provenance)
    tables = SourceTables(SOURCE, None, SOURCE[:, 0])
    for seed in (1, 2):
        made = unpack_start({"mixture": record}, tmp_path, tables, {}, seed)
        expected = complete(given_, tables, seed, fallback=fallback)
        assert np.array_equal(made.words, expected.words)
        assert np.array_equal(made.bias, expected.bias)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be made without the source's tables"):
        unpack_start({"mixture": record}, tmp_path, None, {}, 1)


def test_tables_of_both_sides_come_back(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    words, outputs = (random.normal(size=(5, width)).astype(np.float16).astype(np.float32) for width in (4, 3))
    provenance = np.array([0, 1, 2, 4, 4], dtype=np.int8)
    made = Initialisation(words, outputs, np.arange(5, dtype=np.float32) / 3, provenance)
    pools = {"words": RowPool(None), "outputs": RowPool(None)}
    record = {"rows": pack_rows(made, pools["words"], pools["outputs"], tmp_path)}
    packed = {name: pool.pack(width, tmp_path) for (name, pool), width in zip(pools.items(), (4, 3))}
    found = unpack_start(record, tmp_path, None, packed, seed=1)
    for name in ("words", "outputs", "bias", "provenance"):
        assert np.array_equal(getattr(found, name), getattr(made, name))


def test_a_mixture_of_many_rows_is_stored_as_its_rows() -> None:
    tables = SourceTables(np.zeros((100, 8), dtype=np.float32), None, None)
    few, many = (normalised(csr_matrix(np.tri(10, 100, k) > 0, dtype=np.float64), 1) for k in (0, 90))
    assert is_small(few, tables) is (few.weights.nnz * 10 < 160)
    assert not is_small(many, tables)


def test_a_large_folder_is_warned_of() -> None:
    parts = {"source": 40_000_000, "rows": 15_000_000, "arrays": 10_000_000, "lines": 5}
    said = size_warning({"bytes": sum(parts.values()), "parts": parts})
    assert said is not None
    assert said.startswith(
        "more than 60 MB; the largest parts: source 40.0 MB, rows 15.0 MB, arrays 10.0 MB; cells can"
    )
    assert size_warning({"bytes": 60_000_000, "parts": parts}) is None
