"""CoNLL-U and proposition banks."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from trelm.corpus.treebanks import Frame, Sentence, Word, read_propositions, read_treebank
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


def test_lemmas(tmp_path: Path) -> None:
    (sentence,) = read_treebank(treebank(tmp_path, "1\tgoes\tgo\tVERB\t_\t_\t0\troot\t_\t_"))
    assert sentence.words[0].lemma == "go"
    assert sentence.frames == ()


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


def proposition(identifier: str, *columns: str, flag: str = "_") -> str:
    """A row of a proposition bank; in the layout of flags, the sense is the tenth column."""
    ten = row(identifier, f"w{identifier}", "0" if identifier == "1" else "1").split("\t")
    return "\t".join([*ten[:8], flag, *columns])


def test_frames(tmp_path: Path) -> None:
    rows = [
        proposition("1", "_", "come.03", "V", "_"), proposition("2-3", "_"), proposition("2", "_", "_", "V", "_"),
        proposition("3", "_", "_", "ARG1", "C-ARG1"), proposition("3.1", "_", "", ""),
        proposition("4", "_", "be.01", "ARG1", "V"), "", proposition("1", "_", "_", ""), proposition("2", "_", "", ""),
    ]  # fmt: skip
    first, second = read_propositions(treebank(tmp_path, *rows))
    assert first.frames == (Frame(1, "come.03", ((3, "ARG1"), (4, "ARG1"))), Frame(4, "be.01", ((3, "C-ARG1"),)))
    assert [word.id for word in first.words] == [1, 2, 3, 4]
    assert (second.frames, len(second.words)) == ((), 2)


def test_frames_where_predicates_are_flagged(tmp_path: Path) -> None:
    rows = [
        proposition("1", "_"), "", proposition("1", "_", "A0", "_"),
        proposition("2", "cause.01", "_", "A1", flag="Y"), proposition("3", "go.02", "_", "_", flag="Y"),
    ]  # fmt: skip
    first, second = read_propositions(treebank(tmp_path, *rows))
    assert first.frames == ()
    assert second.frames == (Frame(2, "cause.01", ((1, "A0"),)), Frame(3, "go.02", ((2, "A1"),)))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1\tA"], "line 1: expected 10 columns of CoNLL-U, a sense and roles, found 2; mend"),
        ([proposition("1", "_", "go.01", "", "A0")], "line 1: .* found nothing in column 12; mend"),
        (
            [proposition("1", "_", "go.01", "V"), proposition("2", "_", "_", "A0", "A1")],
            r"line 2: expected 12 columns \(predicates: 1\), found 13; write a column of roles for each predicate",
        ),
        ([proposition("1", "_", "go.01", "V"), proposition("2", "_")], "line 2: expected 12 columns .* found 10"),
        ([proposition("1", "_", "_", "A0")], r"line 1: expected 11 columns \(predicates: 0\), found 12"),
        ([proposition("1", "go.01", flag="Y")], r"line 1: expected 11 columns \(predicates: 1\), found 10"),
        ([proposition("1", "_")], "expected at least one predicate, found none; give a file of the Universal PropBank"),
    ],
)
def test_bad_propositions_are_told(tmp_path: Path, lines: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        list(read_propositions(treebank(tmp_path, *lines)))


@pytest.mark.parametrize(
    ("name", "frames", "roles"),
    [("en/eval/srl_up/en_ewt-up-dev", 4977, 9682), ("zh/eval/srl_up/zh-up-dev", 1257, 2681)],
)
def test_real_propositions(data_folder: Path, name: str, frames: int, roles: int) -> None:
    sentences = list(read_propositions(data_folder / f"{name}.conllu.xz"))
    found = [frame for sentence in sentences for frame in sentence.frames]
    assert (len(found), sum(len(frame.roles) for frame in found)) == (frames, roles)
