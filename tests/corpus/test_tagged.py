"""Tagged sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.tagged import TaggedSentence, read_tagged
from trelm.errors import DataError

TOKENS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=5)
SENTENCES = st.lists(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=4), min_size=1, max_size=4)


def written(folder: Path, text: str, name: str = "a.conll") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@given(sentences=SENTENCES, between=st.sampled_from(["\t", " ", "\tx y\t", " x "]))
def test_columns_come_back(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[tuple[str, str]]], between: str
) -> None:
    text = "\n\n".join("\n".join(f"{word}{between}{tag}" for word, tag in sentence) for sentence in sentences)
    expected = [TaggedSentence(*map(tuple, zip(*sentence))) for sentence in sentences]
    assert list(read_tagged(written(tmp_path_factory.mktemp("columns"), text))) == expected


def test_document_marks_and_blank_lines_are_no_sentences(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O\n\n \n# B-SYM\nNew York\tB-LOC\n\n-DOCSTART-\n"
    assert list(read_tagged(written(tmp_path, text))) == [TaggedSentence(("#", "New York"), ("B-SYM", "B-LOC"))]


def test_parts_of_speech_of_a_treebank(tmp_path: Path) -> None:
    rows = [f"{i}\t{form}\t_\t{upos}" + "\t_" * 6 for i, form, upos in [("1-2", "zum", "_"), (1, "zu", "ADP")]]
    path = written(tmp_path, "\n".join([*rows, "2\tdem\t_\tDET" + "\t_" * 6]), "a.conllu")
    assert list(read_tagged(path)) == [TaggedSentence(("zu", "dem"), ("ADP", "DET"))]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.conll", "a O\nb\n", "line 2: expected a word and its tag, found 1 column; mend the line"),
        ("a.conll", "\tO\n", "line 1: expected a word and its tag, found nothing before the tab"),
        ("a.conll", "a\t\n", "found nothing for a tag"),
        (
            "a.conllu",
            "1\ta" + "\t_" * 8,
            r"part of speech for each word, found _ for word 1 \('a'\) .* fill the fourth",
        ),
    ],
)
def test_bad_lines_are_told(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(read_tagged(written(tmp_path, text, name)))


def test_real_files_are_read(data_folder: Path) -> None:
    sentences = list(read_tagged(data_folder / "id/eval/nergrit/test.conll.xz"))
    assert (len(sentences), sum(len(sentence.words) for sentence in sentences)) == (209, 6854)
    assert {tag[0] for sentence in sentences for tag in sentence.tags} == set("BIO")
