"""The exceptions that a user may meet: one line each, saying where, what was expected, what was found, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

LONGEST_MESSAGE = 2000  # characters: a name of a megabyte would bury what is wrong with it
# Line breaks, escape sequences of terminals, signs that turn the direction of writing, halves of surrogate pairs.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class TrelmError(Exception):
    """A mistake in what the user gave, not in the program: the command line prints it as one line and exits with 2.

    Names and values in the message come from files that others wrote: what would break the line or steer the terminal
    is shown as its escape, and the middle of an endless message is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class ConfigError(TrelmError):
    """The configuration names something unknown, or asks for something that cannot be."""


class DataError(TrelmError):
    """A file of the user's data cannot be used as it is."""


class RunFolderError(TrelmError):
    """The run folder is not ours, belongs to another configuration, or is in use."""


class ExportError(TrelmError):
    """A model cannot be written, or what would be written is not the model that was trained."""


class BudgetError(TrelmError):
    """The budget is too small for the stages that it has to pay for."""


class TrainingError(TrelmError):
    """A training cannot go on: a loss that is no number, a batch that does not fit, a process that is gone."""


class ComparisonError(TrelmError):
    """Cells of a comparison could not be done."""


class DiskError(TrelmError):
    """The disk is full, or a file cannot be written."""


def data_error(path: Path | str, line: int | None, *, expected: str, found: str, hint: str) -> DataError:
    """A `DataError` in the one form that all readers use.

    Args:
        path: the file; line: its 1-based line number, or None where no line is to blame.
        expected, found: noun phrases.
        hint: what the user can do, as an imperative.
    """
    where = f"{path}" if line is None else f"{path}, line {line}"
    return DataError(f"{where}: expected {expected}, found {found}; {hint}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name nearest to `name`, or an empty string where none is near."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def one_line(text: str) -> str:
    """Text as a terminal may show it: one line, no control characters, at most `LONGEST_MESSAGE` characters."""
    half = LONGEST_MESSAGE // 2
    text = text if len(text) <= LONGEST_MESSAGE else f"{text[: half - 3]} ... {text[2 - half :]}"
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """The first line of another library's message, at most 200 characters; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
