"""Arrays and plain records of them, written small: what a prepared comparison carries to another machine."""

from __future__ import annotations

import hashlib
import lzma
import zlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

Record = dict[str, Any]
FAST = 1  # of xz: a third of the time of its default for 4 % more bytes of token ids


def pack_array(array: NDArray[Any], folder: Path) -> Record:
    """Write an array as a file named by its contents, so that equal ones are there once; `unpack_array` reads it.

    Integers take as few bytes as their range needs, rising ones as their steps; floating-point numbers are parted into
    their first, second ... bytes, since the first ones are alike and the last ones are noise.
    """
    array = np.ascontiguousarray(array)
    record: Record = {"kind": str(array.dtype), "shape": list(array.shape)}
    if array.dtype.kind in "iu":
        stored, least, record["rises"] = _narrow(array)
        record["least"] = least
    else:
        stored = array
    record["stored"] = str(stored.dtype)
    raw = stored.tobytes() if stored.dtype.kind != "f" else _planes(stored).tobytes()
    name = hashlib.sha256(f"{record}".encode() + raw).hexdigest()[:24]
    record["file"] = f"{name}.zlib" if stored.dtype.kind == "f" else f"{name}.xz"
    if not (path := folder / record["file"]).exists():
        path.write_bytes(zlib.compress(raw) if stored.dtype.kind == "f" else lzma.compress(raw, preset=FAST))
    return record


def unpack_array(record: Record, folder: Path) -> NDArray[Any]:
    """The array of a record."""
    data = (folder / record["file"]).read_bytes()
    raw = zlib.decompress(data) if record["file"].endswith(".zlib") else lzma.decompress(data)
    stored, kind = np.dtype(record["stored"]), np.dtype(record["kind"])
    if stored.kind == "f":
        parted = np.frombuffer(raw, dtype=np.uint8).reshape(stored.itemsize, -1)
        return np.ascontiguousarray(parted.T).view(stored).reshape(record["shape"])
    found = np.frombuffer(raw, dtype=stored)
    if kind.kind in "iu":
        found = found.astype(np.int64) + record["least"]
        found = np.cumsum(found) if record["rises"] else found
    return found.astype(kind).reshape(record["shape"])


def _narrow(array: NDArray[Any]) -> tuple[NDArray[Any], int, bool]:
    """Integers less their least one, in the smallest type; of rising ones the steps, the first one from 0."""
    wide = array.astype(np.int64)
    rises = wide.ndim == 1 and len(wide) > 1 and bool((np.diff(wide) >= 0).all())
    if rises:
        wide = np.diff(wide, prepend=0)
    least = int(wide.min()) if wide.size else 0
    kind = np.min_scalar_type(int(wide.max()) - least) if wide.size else np.dtype(np.uint8)
    return (wide - least).astype(kind), least, rises


def _planes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """uint8 [bytes of a number, numbers]."""
    return np.ascontiguousarray(array.reshape(-1, 1).view(np.uint8).T)


def pack_value(value: Any, folder: Path) -> Any:
    """Plain values for JSON, the arrays among them written to `folder`; of dataclasses, mappings, lists and tuples.

    Raises:
        TypeError: a value of another kind is among them.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        return {"array": pack_array(value, folder)}
    if is_dataclass(value) and not isinstance(value, type):
        inner = {one.name: pack_value(getattr(value, one.name), folder) for one in fields(value)}
        return {"class": type(value).__name__, "fields": inner}
    if isinstance(value, Mapping):
        return {"mapping": {str(key): pack_value(one, folder) for key, one in value.items()}}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [pack_value(one, folder) for one in value]}
    raise TypeError(f"expected plain values, arrays and dataclasses of them, found {type(value).__name__}")


def unpack_value(packed: Any, folder: Path, classes: Mapping[str, type]) -> Any:
    """What `pack_value` was given.

    Args:
        classes: the dataclasses that may be made, by name; see `classes_within`.
    """
    if not isinstance(packed, dict):
        return packed
    ((kind, inner), *more) = packed.items()
    if kind == "array":
        return unpack_array(inner, folder)
    if kind == "class":
        return classes[inner](
            **{name: unpack_value(one, folder, classes) for name, one in dict(more)["fields"].items()}
        )
    if kind == "mapping":
        return {key: unpack_value(one, folder, classes) for key, one in inner.items()}
    made = [unpack_value(one, folder, classes) for one in inner]
    return tuple(made) if kind == "tuple" else made


def classes_within(kind: type) -> dict[str, type]:
    """A dataclass and all those that its fields may hold, by name."""
    found: dict[str, type] = {}
    pending: list[Any] = [kind]
    while pending:
        one = pending.pop()
        pending += get_args(one)
        if isinstance(one, type) and is_dataclass(one) and one.__name__ not in found:
            found[one.__name__] = one
            pending += get_type_hints(one).values()
    return found
