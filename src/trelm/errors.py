"""The exceptions that a user may meet: one line each, saying where, what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


class TrelmError(Exception):
    """A mistake in what the user gave, not in the program: the command line prints it as one line and exits with 2."""


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


def first_line(error: BaseException) -> str:
    """The first line of another library's message, at most 200 characters; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
