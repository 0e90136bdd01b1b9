"""CoNLL-U treebanks: sentences with their words, heads and relations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trelm.corpus.files import read_lines
from trelm.errors import data_error

_COLUMNS = 10


@dataclass(frozen=True)
class Word:
    """A syntactic word.

    Attributes:
        id: 1-based position in its sentence.
        form, upos, deprel: as in the file; `_` where the treebank says nothing.
        head: id of the governing word, 0 for the root, None where the file has `_`.
    """

    id: int
    form: str
    upos: str
    head: int | None
    deprel: str


@dataclass(frozen=True)
class Sentence:
    """A sentence: its text as it was written, and its syntactic words."""

    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True)
class _Row:
    """A line of columns, and where it stands."""

    line: int
    columns: tuple[str, ...]

    @property
    def identifier(self) -> str:
        return self.columns[0]

    @property
    def space_after(self) -> bool:
        return "SpaceAfter=No" not in self.columns[9].split("|")


def read_treebank(path: Path) -> Iterator[Sentence]:
    """The sentences of a CoNLL-U file, compressed or not.

    Ranges of multiword tokens (`3-4`) and empty nodes (`5.1`) are no words. The text is that of `# text =`; without it,
    the tokens are joined as `SpaceAfter=No` says, a multiword token once.

    Raises:
        DataError: a line without exactly ten columns, ids that are not 1, 2, 3…, a head that is no word of the
            sentence; and whatever `read_lines` says.
    """
    text: str | None = None
    rows: list[_Row] = []
    for number, line in read_lines(path):
        if line.startswith("#"):
            key, separator, value = line[1:].partition("=")
            if separator and key.strip() == "text":
                text = value.strip()
        elif line.strip():
            rows.append(_split(path, number, line))
        elif rows:
            yield _sentence(path, text, rows)
            text, rows = None, []
    if rows:
        yield _sentence(path, text, rows)


def _split(path: Path, number: int, line: str) -> _Row:
    columns = tuple(line.split("\t"))
    if len(columns) != _COLUMNS:
        found = f"{len(columns)}" if len(columns) > 1 else "1 (are the tabs lost?)"
        raise data_error(path, number, expected="10 columns of CoNLL-U", found=found, hint="mend the line")
    return _Row(number, columns)


def _sentence(path: Path, text: str | None, rows: Sequence[_Row]) -> Sentence:
    word_rows = [row for row in rows if "-" not in row.identifier and "." not in row.identifier]
    words = tuple(_word(path, row, position, len(word_rows)) for position, row in enumerate(word_rows, start=1))
    return Sentence(_joined(path, rows) if text is None else text, words)


def _word(path: Path, row: _Row, position: int, count: int) -> Word:
    if row.identifier != str(position):
        found = f"'{row.identifier}'"
        raise data_error(
            path, row.line, expected=f"the word id {position}", found=found, hint="number the words 1, 2, 3"
        )
    head = row.columns[6]
    if head != "_" and not (head.isascii() and head.isdigit() and int(head) <= count):
        expected = f"a head from 0 to {count}, or _"
        raise data_error(path, row.line, expected=expected, found=f"'{head}'", hint="mend the seventh column")
    return Word(position, row.columns[1], row.columns[3], None if head == "_" else int(head), row.columns[7])


def _joined(path: Path, rows: Sequence[_Row]) -> str:
    """The text of a sentence from its surface tokens."""
    parts: list[str] = []
    covered = 0
    for row in rows:
        if "." in row.identifier:
            continue
        if "-" in row.identifier:
            covered = _range_end(path, row)
        elif row.identifier.isdigit() and int(row.identifier) <= covered:
            continue
        parts.append(row.columns[1] + (" " if row.space_after else ""))
    return "".join(parts).strip()


def _range_end(path: Path, row: _Row) -> int:
    start, _, end = row.identifier.partition("-")
    if not (start.isdigit() and end.isdigit()):
        hint = "mend the first column"
        raise data_error(path, row.line, expected="a range such as 3-4", found=f"'{row.identifier}'", hint=hint)
    return int(end)
