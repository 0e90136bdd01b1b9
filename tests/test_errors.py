"""The one exception family and the form of its messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm import errors
from trelm.errors import DataError, TrelmError, data_error, did_you_mean, first_line

FAMILY = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


def test_every_exception_of_the_module_is_one_of_the_family_and_says_what_it_is_for() -> None:
    assert {kind.__name__ for kind in FAMILY} >= {
        "ConfigError",
        "DataError",
        "RunFolderError",
        "BudgetError",
        "DiskError",
    }
    for kind in FAMILY:
        assert issubclass(kind, TrelmError)
        assert kind.__doc__


def test_data_error_says_where_what_was_expected_what_was_found_and_what_to_do() -> None:
    error = data_error(Path("a/b.tsv"), 7, expected="2 columns", found="3", hint="remove the third")
    assert isinstance(error, DataError)
    assert str(error) == "a/b.tsv, line 7: expected 2 columns, found 3; remove the third"


def test_data_error_without_a_line_names_the_file_alone() -> None:
    error = data_error("b.tsv", None, expected="a file", found="nothing there", hint="check the path")
    assert str(error) == "b.tsv: expected a file, found nothing there; check the path"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("targt", "; did you mean 'target'?"),
        ("lerning_rate", "; did you mean 'learning_rate'?"),
        ("target", "; did you mean 'target'?"),
        ("zzzz", ""),
        ("", ""),
    ],
)
def test_did_you_mean_names_the_nearest_or_nothing(name: str, hint: str) -> None:
    assert did_you_mean(name, ("source", "target", "learning_rate")) == hint


def test_did_you_mean_takes_any_iterable_and_an_empty_one() -> None:
    assert did_you_mean("sede", iter(["seed"])) == "; did you mean 'seed'?"
    assert did_you_mean("seed", []) == ""


@settings(deadline=None)
@given(st.text(min_size=1), st.lists(st.text(), max_size=5))
def test_did_you_mean_only_ever_names_a_known_name(name: str, known: list[str]) -> None:
    hint = did_you_mean(name, known)
    assert hint in {"", *(f"; did you mean '{other}'?" for other in known)}
    if name in known:
        assert hint == f"; did you mean '{name}'?"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n\n  one\ntwo"), "one"),
        (RuntimeError(), "RuntimeError"),
        (OSError(""), "OSError"),
        (ImportError(" \n\t\n"), "ImportError"),
        (ValueError("a" * 500), "a" * 200),
    ],
)
def test_the_first_line_of_anothers_message_is_never_empty_and_never_long(error: Exception, line: str) -> None:
    assert first_line(error) == line
