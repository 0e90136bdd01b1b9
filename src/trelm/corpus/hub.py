"""Data sets of the Hugging Face Hub, or folders in its formats, named by one string.

    hf://DATASET/SPLIT                  the column `text` of a split
    hf://DATASET:CONFIG/SPLIT           ... of one of the data set's configurations
    hf://DATASET/SPLIT#COLUMN           another column
    hf://DATASET/SPLIT#COLUMN,COLUMN    two columns: a sentence and its translation
    hf://DATASET/SPLIT#translation.en,translation.id        fields of a nested column

The split is always the part after the last `/`. `DATASET` is a Hub id (`name` or `user/name`) or a folder, told by its
beginning (`/`, `./`, `../`, `~`): one that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, or one of
Parquet or JSON Lines files. A folder that holds one saved split may be named without a split: hf:///data/saved#text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from trelm.errors import DataError, data_error, did_you_mean

PREFIX = "hf://"
_DEFAULT_COLUMNS = ("text",)
_FORM = "hf://dataset/split#column or hf://dataset:config/split#column"


@dataclass(frozen=True)
class HubName:
    """The parts of an `hf://` name; `split` is None for a folder that holds a single saved split."""

    dataset: str
    config: str | None
    split: str | None
    columns: tuple[str, ...]

    @property
    def is_folder(self) -> bool:
        return self.dataset.startswith(("/", "./", "../", "~"))

    @property
    def folder(self) -> Path:
        return Path(os.path.expanduser(self.dataset))


def is_hub_name(source: str) -> bool:
    """Whether a source is an `hf://` name rather than a file."""
    return source.startswith(PREFIX)


def parse_name(source: str) -> HubName:
    """The parts of an `hf://` name, by the grammar at the top of this module.

    Raises:
        DataError: a part is missing.
    """
    if re.search(r"[\x00\ud800-\udfff]", source):
        hint = "take it out"
        raise data_error(source, None, expected="a name", found="a NUL or half a character in it", hint=hint)
    body, separator, named = source.removeprefix(PREFIX).partition("#")
    columns = tuple(part.strip() for part in named.split(",")) if separator else _DEFAULT_COLUMNS
    whole = HubName(body, None, None, columns)
    if whole.is_folder and _holds_one_split(whole.folder) and all(columns):
        return whole
    path, slash, split = body.rpartition("/")
    dataset, colon, config = path.partition(":")
    if not (slash and split and dataset and all(columns)) or (colon and not config):
        raise data_error(source, None, expected=_FORM, found="a part missing", hint="add the part that is missing")
    return HubName(dataset, config or None, split, columns)


def read_columns(source: str, count: int) -> Iterator[tuple[str, ...]]:
    """The texts in `count` columns of every row, streamed; a missing value is an empty text.

    No code that comes with a data set is ever run.

    Raises:
        DataError: a name that is none, another number of columns, an unknown data set, configuration, split or column
            (with those that there are), a value that is no text, or a data set without rows.
    """
    name = parse_columns(source, count)
    number = 0
    for number, row in enumerate(_rows(source, name), start=1):
        yield tuple(text_in(source, number, row, column) for column in name.columns)
    if not number:
        raise without_rows(source)


def parse_columns(source: str, count: int) -> HubName:
    """As `parse_name`, for a name with `count` columns.

    Raises:
        DataError: also where it has more or fewer.
    """
    name = parse_name(source)
    if len(name.columns) != count:
        expected = "one column" if count == 1 else f"{count} columns, as in #en,id"
        found = f"{len(name.columns)} ({', '.join(name.columns)})"
        raise data_error(source, None, expected=expected, found=found, hint="name the columns after the #")
    return name


def _rows(source: str, name: HubName) -> Iterator[Mapping[str, Any]]:
    """The rows of a data set, the library's many kinds of exceptions turned into one."""
    try:
        yield from load(source, name)
    except DataError:
        raise
    except Exception as error:  # datasets, huggingface_hub, fsspec and pyarrow share no base class
        raise unreadable(source, error) from None


def unreadable(source: str, error: Exception) -> DataError:
    """What the user is told of an exception of the libraries that read data sets."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    hint = f"check the name, which has the form {_FORM}, and the connection"
    return data_error(source, None, expected="a readable data set", found=f"an error ({lines[0]})", hint=hint)


def without_rows(source: str) -> DataError:
    """What the user is told of a data set that holds nothing."""
    return data_error(source, None, expected="rows", found="none", hint="check the split")


def load(source: str, name: HubName) -> Any:
    """The `datasets` object behind a name: one that streams, or, where `save_to_disk` wrote it, one mapped into memory.

    Raises:
        DataError: no such folder, no such split in a saved one. Exceptions of the libraries pass through.
    """
    if not name.is_folder:
        return datasets.load_dataset(name.dataset, name.config, split=name.split, streaming=True)
    if _is_saved(name.folder):
        return _load_saved(source, name)
    if not os.path.isdir(name.folder):
        raise data_error(source, None, expected="a folder", found=f"no {name.folder}", hint="check the path")
    return datasets.load_dataset(str(name.folder), name.config, split=name.split, streaming=True)


def _load_saved(source: str, name: HubName) -> Any:
    """A data set that `save_to_disk` wrote; it is mapped into memory, not read into it."""
    saved: Any = datasets.load_from_disk(str(name.folder))
    if name.split is None:
        return saved
    splits = list(saved) if isinstance(saved, datasets.DatasetDict) else []
    if name.split not in splits:
        found = f"'{name.split}' (splits there: {', '.join(splits) or 'none'}){did_you_mean(name.split, splits)}"
        raise data_error(source, None, expected="the name of a split", found=found, hint="name one of them")
    return saved[name.split]


def _is_saved(folder: Path) -> bool:
    return os.path.isfile(folder / "dataset_dict.json") or _holds_one_split(folder)


def _holds_one_split(folder: Path) -> bool:
    return os.path.isfile(folder / "state.json")  # a name that is too long is no folder, rather than an exception


def text_in(source: str, number: int, row: Mapping[str, Any], column: str) -> str:
    """The text of a row in a column; `a.b` is the field `b` of the column `a`, unless a column has that very name."""
    value: Any = row
    for key in [column] if column in row else column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            known = list(value) if isinstance(value, Mapping) else list(row)
            found = f"'{column}' (columns there: {', '.join(known)}){did_you_mean(key, known)}"
            raise data_error(
                source, None, expected="the name of a column", found=found, hint="name one of them after #"
            )
        value = value[key]
    if value is not None and not isinstance(value, str):
        found = f"{type(value).__name__} in row {number}"
        raise data_error(
            source, None, expected=f"text in the column '{column}'", found=found, hint="name another column"
        )
    return value or ""
