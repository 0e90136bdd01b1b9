"""Labelled texts for classification: a text, or a pair of texts, and its label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trelm.corpus.files import plain_name, read_lines
from trelm.errors import DataError, data_error


@dataclass(frozen=True)
class LabelledText:
    """A text (with `second`, the first of a pair) and its label."""

    text: str
    second: str | None
    label: str


def read_labelled(path: Path) -> Iterator[LabelledText]:
    """The labelled texts of a `.jsonl` or `.tsv` file, compressed or not; blank lines are skipped.

    A line of JSON is an object with `text` and `label`, or `text_a`, `text_b` and `label`; other keys are ignored, and
    a label may be a string, a whole number or a truth value. A line of TSV has two columns (text, label) or three
    (first text, second text, label).

    Raises:
        DataError: another ending, a line that is not as above, an empty text or label, a file that mixes texts and
            pairs; and whatever `read_lines` says.
    """
    name = plain_name(path)
    if not name.endswith((".jsonl", ".tsv")):
        hint = "write one text a line, as JSON or in columns"
        raise data_error(path, None, expected="a .jsonl or .tsv file", found=f"'{path.name}'", hint=hint)
    parse = _from_json if name.endswith(".jsonl") else _from_columns
    pairs: bool | None = None
    for number, line in read_lines(path):
        if not line.strip():
            continue
        example = parse(path, number, line)
        is_pair = example.second is not None
        pairs = is_pair if pairs is None else pairs
        if is_pair != pairs:
            kinds = {True: "a pair of texts", False: "a single text"}
            hint = "keep single texts and pairs in files of their own"
            raise data_error(
                path, number, expected=f"{kinds[pairs]} as in the lines before", found=kinds[is_pair], hint=hint
            )
        yield example


def _from_columns(path: Path, number: int, line: str) -> LabelledText:
    columns = [column.strip() for column in line.split("\t")]
    if len(columns) not in (2, 3):
        expected = "text<TAB>label or text<TAB>text<TAB>label"
        found = f"{len(columns)} column{'' if len(columns) == 1 else 's'}"
        raise data_error(path, number, expected=expected, found=found, hint="mend the line")
    if not all(columns):
        raise data_error(
            path,
            number,
            expected="something in each column",
            found=f"nothing in column {columns.index('') + 1}",
            hint="mend the line, or take it out",
        )
    return LabelledText(columns[0], columns[1] if len(columns) == 3 else None, columns[-1])


def _from_json(path: Path, number: int, line: str) -> LabelledText:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # brackets nested without end exhaust the parser
        raise _not_an_example(path, number, "a line that is not JSON") from None
    if not isinstance(record, dict):
        raise _not_an_example(path, number, f"a value of type {type(record).__name__}")
    names = ("text_a", "text_b") if "text_a" in record or "text_b" in record else ("text",)
    missing = [key for key in (*names, "label") if key not in record]
    if missing:
        raise _not_an_example(path, number, f"no '{missing[0]}'")
    texts = [_text(path, number, record, name) for name in names]
    return LabelledText(texts[0], texts[1] if len(texts) == 2 else None, _label(path, number, record["label"]))


def _not_an_example(path: Path, number: int, found: str) -> DataError:
    expected = "a JSON object with text and label, or text_a, text_b and label"
    return data_error(path, number, expected=expected, found=found, hint="mend the line")


def _text(path: Path, number: int, record: dict[str, Any], name: str) -> str:
    text = record[name]
    if not isinstance(text, str) or not text.strip():
        found = "an empty one" if isinstance(text, str) else f"a value of type {type(text).__name__}"
        raise data_error(path, number, expected=f"a text in '{name}'", found=found, hint="mend the line or take it out")
    return text


def _label(path: Path, number: int, label: object) -> str:
    if not isinstance(label, str | int) or not str(label).strip():
        found = "an empty one" if isinstance(label, str) else f"a value of type {type(label).__name__}"
        expected = "a label that is a string, a whole number or a truth value"
        raise data_error(path, number, expected=expected, found=found, hint="mend the line or take it out")
    return str(label)
