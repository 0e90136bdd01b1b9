"""Tagged sentences: words with parts of speech, or with the IOB tags of named entities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trelm.corpus.files import plain_name, read_lines
from trelm.corpus.treebanks import read_treebank
from trelm.errors import data_error


@dataclass(frozen=True)
class TaggedSentence:
    """Words, and as many tags."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def read_tagged(path: Path) -> Iterator[TaggedSentence]:
    """The sentences of a `.conllu` file with their universal parts of speech, or those of a file in CoNLL columns.

    In columns (split at tabs where the line has one, else at white space) the word is the first and its tag the last; a
    blank line ends a sentence, and lines that begin with `-DOCSTART-` are skipped.

    Raises:
        DataError: a line with one column, or with nothing in its first or last; a word of a treebank without part of
            speech; and whatever `read_lines` and `read_treebank` say.
    """
    return _from_treebank(path) if plain_name(path).endswith(".conllu") else _from_columns(path)


def _from_treebank(path: Path) -> Iterator[TaggedSentence]:
    for sentence in read_treebank(path):
        for word in sentence.words:
            if word.upos == "_":
                found = f"_ for word {word.id} ('{word.form}') of the sentence '{sentence.text[:60]}'"
                hint = "fill the fourth column, or take the sentence out"
                raise data_error(path, None, expected="a part of speech for each word", found=found, hint=hint)
        yield TaggedSentence(tuple(word.form for word in sentence.words), tuple(word.upos for word in sentence.words))


def _from_columns(path: Path) -> Iterator[TaggedSentence]:
    pairs: list[tuple[str, str]] = []
    for number, line in read_lines(path):
        if line.startswith("-DOCSTART-"):
            continue
        if line.strip():
            pairs.append(_pair(path, number, line))
        elif pairs:
            yield _sentence(pairs)
            pairs = []
    if pairs:
        yield _sentence(pairs)


def _sentence(pairs: list[tuple[str, str]]) -> TaggedSentence:
    return TaggedSentence(tuple(word for word, _ in pairs), tuple(tag for _, tag in pairs))


def _pair(path: Path, number: int, line: str) -> tuple[str, str]:
    columns = [column.strip() for column in line.split("\t")] if "\t" in line else line.split()
    if len(columns) < 2 or not columns[0] or not columns[-1]:
        found = "1 column" if len(columns) < 2 else "nothing before the tab" if not columns[0] else "nothing for a tag"
        raise data_error(path, number, expected="a word and its tag", found=found, hint="mend the line")
    return columns[0], columns[-1]
