"""CoNLL-U."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from trelm.corpus.treebanks import Sentence, Word, read_treebank
from trelm.errors import DataError


def row(identifier: str, form: str, head: str = "_", misc: str = "_") -> str:
    return "\t".join([identifier, form, "_", "NOUN", "_", "_", head, "dep", "_", misc])


def treebank(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "a.conllu"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_words_and_text(tmp_path: Path) -> None:
    lines = ["# sent_id = 1", "# text = Buku itu = baik.", row("1", "Buku", "2"), row("2", "itu", "0"), "", ""]
    sentence = Sentence("Buku itu = baik.", (Word(1, "Buku", "NOUN", 2, "dep"), Word(2, "itu", "NOUN", 0, "dep")))
    assert list(read_treebank(treebank(tmp_path, *lines))) == [sentence]


def test_ranges_and_empty_nodes_are_no_words(tmp_path: Path) -> None:
    rows = [
        row("1", "Ich", "2"), row("2", "gehe", "0"), row("3-4", "zum", misc="X=1|SpaceAfter=No"), row("3", "zu", "5"),
        row("4", "dem", "5"), row("5", "-Haus", "2", "SpaceAfter=No"), row("5.1", "gehe"), row("6", ".", "2"),
    ]  # fmt: skip
    (sentence,) = read_treebank(treebank(tmp_path, *rows))
    assert [word.form for word in sentence.words] == ["Ich", "gehe", "zu", "dem", "-Haus", "."]
    assert [word.id for word in sentence.words] == [1, 2, 3, 4, 5, 6]
    assert sentence.text == "Ich gehe zum-Haus."


def test_text_belongs_to_its_own_sentence(tmp_path: Path) -> None:
    lines = ["# text = A b", row("1", "A", "0"), row("2", "b", "1"), "", row("1", "C", "0"), row("2", "d", "1")]
    assert [sentence.text for sentence in read_treebank(treebank(tmp_path, *lines))] == ["A b", "C d"]


def test_missing_heads_and_compression(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu.xz"
    path.write_bytes(lzma.compress(row("1", "A").encode()))
    (sentence,) = read_treebank(path)
    assert sentence.words[0].head is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1\tA\t_", "line 2: expected 10 columns of CoNLL-U, found 3; mend the line"),
        ("1 A", r"line 2: expected 10 columns of CoNLL-U, found 1 \(are the tabs lost\?\)"),
        (row("2", "A"), "line 2: expected the word id 1, found '2'; number the words"),
        (row("x", "A"), "line 2: expected the word id 1, found 'x'"),
        (row("1", "A", "2"), "line 2: expected a head from 0 to 1, or _, found '2'; mend the seventh column"),
        (row("1", "A", "-1"), "line 2: expected a head from 0 to 1"),
        (row("1-x", "A"), "line 2: expected a range such as 3-4, found '1-x'; mend the first column"),
    ],
)
def test_bad_lines_are_told(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(read_treebank(treebank(tmp_path, "# sent_id = 1", line, "")))
