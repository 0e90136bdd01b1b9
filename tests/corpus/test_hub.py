"""`hf://` names, offline, on folders that the `datasets` library wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from trelm.corpus import hub
from trelm.corpus.hub import HubName, is_hub_name, parse_name, read_columns
from trelm.errors import DataError

ROWS = {"text": ["one", None, "three"], "label": [1, 2, 3], "pair": [{"en": "a", "id": "b"}] * 3}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set of the splits train and test."""
    rows = datasets.Dataset.from_dict(ROWS)
    datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf://imdb/train", HubName("imdb", None, "train", ("text",))),
        ("hf://user/name/train", HubName("user/name", None, "train", ("text",))),
        ("hf://user/name:20231101.id/train#body", HubName("user/name", "20231101.id", "train", ("body",))),
        ("hf://a/b:en-id/test#t.en, t.id", HubName("a/b", "en-id", "test", ("t.en", "t.id"))),
        ("hf:///tmp/none/train#a", HubName("/tmp/none", None, "train", ("a",))),
        ("hf://~/x:c/train", HubName("~/x", "c", "train", ("text",))),
    ],
)
def test_names(name: str, parts: HubName) -> None:
    assert is_hub_name(name)
    assert parse_name(name) == parts


@pytest.mark.parametrize(
    "name", ["hf://imdb", "hf://imdb/", "hf:///train", "hf://a:/train", "hf://a/b#", "hf://a/b#x,"]
)
def test_a_name_that_lacks_a_part_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"expected hf://dataset/split#column .*, found a part missing; add the part"):
        parse_name(name)


def test_saved_splits(saved: Path) -> None:
    assert list(read_columns(f"hf://{saved}/train", 1)) == [("one",), ("",), ("three",)]
    assert list(read_columns(f"hf://{saved}/test#pair.id,text", 2)) == [("b", "one")]


def test_a_saved_single_split_needs_no_name(tmp_path: Path) -> None:
    datasets.Dataset.from_dict(ROWS).save_to_disk(tmp_path / "one")
    assert parse_name(f"hf://{tmp_path}/one#pair.en").split is None
    assert len(list(read_columns(f"hf://{tmp_path}/one#pair.en", 1))) == 3


def test_parquet_and_json_lines_are_streamed(tmp_path: Path) -> None:
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_dict(ROWS).to_parquet(tmp_path / "parquet" / "train-00000-of-00001.parquet")
    assert next(read_columns(f"hf://{tmp_path}/parquet/train", 1)) == ("one",)
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "test.jsonl").write_text("\n".join(json.dumps({"t.x": f"row {n}"}) for n in range(3)))
    assert list(read_columns(f"hf://{tmp_path}/lines/test#t.x", 1)) == [("row 0",), ("row 1",), ("row 2",)]


def test_hub_data_sets_are_streamed_and_run_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def load(*names: Any, **options: Any) -> list[dict[str, str]]:
        calls.append((names, options))
        return [{"text": "one"}]

    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    assert list(read_columns("hf://user/name:id/train", 1)) == [("one",)]
    assert calls == [(("user/name", "id"), {"split": "train", "streaming": True})]


def test_unknown_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'user/none' doesn't exist\nsecond line")

    monkeypatch.setattr(hub.datasets, "load_dataset", load)
    expected = r"expected a readable data set, found an error \(Dataset 'user/none' doesn't exist\); check the name"
    with pytest.raises(DataError, match=expected):
        list(read_columns("hf://user/none/train", 1))


def test_unknown_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a folder, found no .*/none; check the path"):
        list(read_columns(f"hf://{tmp_path}/none/train", 1))


def test_unknown_split(saved: Path, tmp_path: Path) -> None:
    expected = r"expected the name of a split, found 'tran' \(splits there: train, test\); did you mean 'train'\?"
    with pytest.raises(DataError, match=expected):
        list(read_columns(f"hf://{saved}/tran", 1))
    (tmp_path / "train.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(DataError, match=r"expected a readable data set, found an error \(.*train"):
        list(read_columns(f"hf://{tmp_path}/dev", 1))


@pytest.mark.parametrize(
    ("column", "known"), [("txt", "text, label, pair"), ("pair.fr", "en, id"), ("text.x", "text, la")]
)
def test_unknown_column(saved: Path, column: str, known: str) -> None:
    with pytest.raises(DataError, match=rf"expected the name of a column, found '{column}' \(columns there: {known}"):
        list(read_columns(f"hf://{saved}/train#{column}", 1))


def test_a_column_without_text(saved: Path) -> None:
    with pytest.raises(DataError, match="expected text in the column 'label', found int in row 1; name another column"):
        list(read_columns(f"hf://{saved}/train#label", 1))


def test_another_number_of_columns(saved: Path) -> None:
    with pytest.raises(DataError, match=r"expected 2 columns, as in #en,id, found 1 \(text\); name the columns"):
        list(read_columns(f"hf://{saved}/train", 2))
    with pytest.raises(DataError, match=r"expected one column, found 2 \(a, b\)"):
        list(read_columns(f"hf://{saved}/train#a,b", 1))


def test_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.datasets, "load_dataset", lambda *_, **__: [])
    with pytest.raises(DataError, match="expected rows, found none; check the split"):
        list(read_columns("hf://user/name/train", 1))
