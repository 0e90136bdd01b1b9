"""Labelled texts."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.labelled import LabelledText, read_labelled
from trelm.errors import DataError

TEXTS = st.text(min_size=1, max_size=8).filter(str.strip)
EXAMPLES = st.lists(st.builds(LabelledText, TEXTS, st.none(), TEXTS), min_size=1) | st.lists(
    st.builds(LabelledText, TEXTS, TEXTS, TEXTS), min_size=1
)


@given(examples=EXAMPLES)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, examples: list[LabelledText]) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl.xz"
    records = [
        {"text": e.text, "label": e.label} if e.second is None
        else {"text_a": e.text, "text_b": e.second, "label": e.label}
        for e in examples
    ]  # fmt: skip
    path.write_bytes(lzma.compress("\n\n".join(map(json.dumps, records)).encode()))
    assert list(read_labelled(path)) == examples


@pytest.mark.parametrize(
    ("name", "line", "example"),
    [
        ("a.jsonl", '{"text": "a", "label": 1, "id": 7}', LabelledText("a", None, "1")),
        ("a.jsonl", '{"text": "a", "label": true}', LabelledText("a", None, "True")),
        ("a.TSV", "a b\tpos", LabelledText("a b", None, "pos")),
        ("a.tsv", "a\tb \tpos", LabelledText("a", "b", "pos")),
    ],
)
def test_forms_of_a_line(tmp_path: Path, name: str, line: str, example: LabelledText) -> None:
    path = tmp_path / name
    path.write_text(f"{line}\n\n", encoding="utf-8")
    assert list(read_labelled(path)) == [example]


@pytest.mark.parametrize(
    ("name", "line", "words"),
    [
        ("a.tsv", "a", "line 2: expected text<TAB>label or text<TAB>text<TAB>label, found 1 column; mend"),
        ("a.tsv", "a\tb\tc\td", "line 2: .* found 4 columns"),
        ("a.tsv", "a\t ", "line 2: expected something in each column, found nothing in column 2; mend"),
        ("a.tsv", "a\tb\tc", "line 2: expected a single text as in the lines before, found a pair of texts; keep"),
        ("a.jsonl", "{", "line 2: expected a JSON object with text and label, .* found a line that is not JSON; mend"),
        ("a.jsonl", "[" * 100_000, "line 2: .* found a line that is not JSON"),
        ("a.jsonl", "[1]", "line 2: expected a JSON object .* found a value of type list"),
        ("a.jsonl", '{"label": 1}', "line 2: expected a JSON object .* found no 'text'"),
        ("a.jsonl", '{"text": "a"}', "found no 'label'"),
        ("a.jsonl", '{"text_b": "a", "label": 1}', "found no 'text_a'"),
        ("a.jsonl", '{"text": 3, "label": 1}', "line 2: expected a text in 'text', found a value of type int; mend"),
        ("a.jsonl", '{"text": " ", "label": 1}', "expected a text in 'text', found an empty one"),
        (
            "a.jsonl",
            '{"text": "a", "label": 1.5}',
            "line 2: expected a label that is a string, .* found a value of type float",
        ),
        ("a.jsonl", '{"text": "a", "label": ""}', "expected a label .* found an empty one"),
        ("a.csv", "a,b", "a.csv: expected a .jsonl or .tsv file, found 'a.csv'; write one text a line"),
    ],
)
def test_bad_lines_are_told(tmp_path: Path, name: str, line: str, words: str) -> None:
    path = tmp_path / name
    first = '{"text": "a", "label": "b"}' if name.endswith("jsonl") else "a\tb"
    path.write_text(f"{first}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=words):
        list(read_labelled(path))


def test_real_files_are_read(data_folder: Path) -> None:
    examples = list(read_labelled(data_folder / "id/eval/wrete/test.jsonl.xz"))
    assert len(examples) == 100
    assert {example.label for example in examples} == {"Entail_or_Paraphrase", "NotEntail"}
