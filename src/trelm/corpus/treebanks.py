"""CoNLL-U treebanks: sentences with their words, heads and relations; proposition banks: with their frames besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trelm.corpus.files import read_lines
from trelm.errors import data_error

_COLUMNS = 10


@dataclass(frozen=True)
class Word:
    """A syntactic word.

    Attributes:
        id: 1-based position in its sentence.
        form, upos, deprel, lemma: as in the file; `_` where the treebank says nothing.
        head: id of the governing word, 0 for the root, None where the file has `_`.
    """

    id: int
    form: str
    upos: str
    head: int | None
    deprel: str
    lemma: str = "_"


@dataclass(frozen=True)
class Frame:
    """A predicate and its arguments.

    Attributes:
        predicate: id of the word. sense: its roleset, such as `come.03`.
        roles: (word id, label) of each argument, by word id; several arguments may share a label.
    """

    predicate: int
    sense: str
    roles: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Sentence:
    """A sentence: its text as it was written, its syntactic words, and the frames of a proposition bank."""

    text: str
    words: tuple[Word, ...]
    frames: tuple[Frame, ...] = ()


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
    for text, rows in _blocks(path, _ten_columns):
        yield _sentence(path, text, rows)


def read_propositions(path: Path) -> Iterator[Sentence]:
    """The sentences of a file of the Universal PropBank 1.0, compressed or not, with their frames (Akbik et al. 2015).

    After the ten columns of CoNLL-U come the sense of the word and a column of roles for each predicate of the
    sentence, in order. Where the ninth column flags predicates by `Y`, as in the banks that were made by projection,
    the sense is the tenth column. Words without sense are no predicates, and a label `V` is no role: it marks the
    predicate itself, with its particle. Ranges and empty nodes are no words; empty columns at the end of a line do not
    count.

    Raises:
        DataError: a word with more or fewer columns than that, an empty one between others, no predicate in the whole
            file; and whatever `read_treebank` says, but for ten columns.
    """
    predicates = 0
    for text, rows in _blocks(path, _columns_of_propositions):
        sentence = replace(_sentence(path, text, rows), frames=_frames(path, _words_only(rows)))
        predicates += len(sentence.frames)
        yield sentence
    if not predicates:
        hint = "give a file of the Universal PropBank 1.0"
        raise data_error(path, None, expected="at least one predicate", found="none", hint=hint)


def _blocks(path: Path, split: Callable[[Path, int, str], tuple[str, ...]]) -> Iterator[tuple[str | None, list[_Row]]]:
    """The text, where a comment gives it, and the rows of each sentence."""
    text: str | None = None
    rows: list[_Row] = []
    for number, line in read_lines(path):
        if line.startswith("#"):
            key, separator, value = line[1:].partition("=")
            if separator and key.strip() == "text":
                text = value.strip()
        elif line.strip():
            rows.append(_Row(number, split(path, number, line)))
        elif rows:
            yield text, rows
            text, rows = None, []
    if rows:
        yield text, rows


def _ten_columns(path: Path, number: int, line: str) -> tuple[str, ...]:
    columns = tuple(line.split("\t"))
    if len(columns) != _COLUMNS:
        found = f"{len(columns)}" if len(columns) > 1 else "1 (are the tabs lost?)"
        raise data_error(path, number, expected="10 columns of CoNLL-U", found=found, hint="mend the line")
    return columns


def _columns_of_propositions(path: Path, number: int, line: str) -> tuple[str, ...]:
    columns = tuple(line.rstrip("\t").split("\t"))
    if len(columns) < _COLUMNS or "" in columns[_COLUMNS:]:
        found = f"{len(columns)}" if len(columns) < _COLUMNS else f"nothing in column {columns.index('', _COLUMNS) + 1}"
        expected = "10 columns of CoNLL-U, a sense and roles"
        raise data_error(path, number, expected=expected, found=found, hint="mend the line")
    return columns


def _words_only(rows: Sequence[_Row]) -> list[_Row]:
    return [row for row in rows if "-" not in row.identifier and "." not in row.identifier]


def _frames(path: Path, rows: Sequence[_Row]) -> tuple[Frame, ...]:
    """The frames of a sentence from the rows of its words."""
    sense = _COLUMNS - 1 if any(row.columns[8] == "Y" for row in rows) else _COLUMNS
    senses = {position: row.columns[sense] for position, row in enumerate(rows, start=1) if len(row.columns) > sense}
    predicates = [position for position in senses if senses[position] != "_"]
    width = sense + 1 + len(predicates)
    for row in rows:
        if len(row.columns) != width and (predicates or len(row.columns) != _COLUMNS):
            expected = f"{width} columns (predicates: {len(predicates)})"
            hint = "write a column of roles for each predicate of the sentence"
            raise data_error(path, row.line, expected=expected, found=f"{len(row.columns)}", hint=hint)
    frames = []
    for column, predicate in enumerate(predicates, start=sense + 1):
        labels = [(position, row.columns[column]) for position, row in enumerate(rows, start=1)]
        roles = tuple((position, label) for position, label in labels if label not in ("_", "V"))
        frames.append(Frame(predicate, senses[predicate], roles))
    return tuple(frames)


def _sentence(path: Path, text: str | None, rows: Sequence[_Row]) -> Sentence:
    word_rows = _words_only(rows)
    words = tuple(_word(path, row, position, len(word_rows)) for position, row in enumerate(word_rows, start=1))
    return Sentence(_joined(path, rows) if text is None else text, words)


def _word(path: Path, row: _Row, position: int, count: int) -> Word:
    if row.identifier != str(position):
        found = f"'{row.identifier}'"
        raise data_error(
            path, row.line, expected=f"the word id {position}", found=found, hint="number the words 1, 2, 3"
        )
    head = row.columns[6]
    if head != "_" and not (_is_number(head) and int(head) <= count):
        expected = f"a head from 0 to {count}, or _"
        raise data_error(path, row.line, expected=expected, found=f"'{head}'", hint="mend the seventh column")
    governor = None if head == "_" else int(head)
    return Word(position, row.columns[1], row.columns[3], governor, row.columns[7], row.columns[2])


def _is_number(text: str) -> bool:
    """Whether it is a position; Python converts neither every digit of Unicode nor thousands of them."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _joined(path: Path, rows: Sequence[_Row]) -> str:
    """The text of a sentence from its surface tokens."""
    parts: list[str] = []
    covered = 0
    for row in rows:
        if "." in row.identifier:
            continue
        if "-" in row.identifier:
            covered = _range_end(path, row)
        elif _is_number(row.identifier) and int(row.identifier) <= covered:
            continue
        parts.append(row.columns[1] + (" " if row.space_after else ""))
    return "".join(parts).strip()


def _range_end(path: Path, row: _Row) -> int:
    start, _, end = row.identifier.partition("-")
    if not (_is_number(start) and _is_number(end)):
        hint = "mend the first column"
        raise data_error(path, row.line, expected="a range such as 3-4", found=f"'{row.identifier}'", hint=hint)
    return int(end)
