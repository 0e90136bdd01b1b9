from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trelm.errors import ConfigError
from trelm.evaluation.units import choose_units, split_units


def units_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split_units(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, 2x!", ["Don", "'", "t", "stop", ",", "2x", "!"]),
        ("", []),
        (" \t\n", []),
        ("我爱NLP", ["我", "爱", "NLP"]),
        ("カタカナー々", ["カ", "タ", "カ", "ナ", "ー", "々"]),
        ("ภาษาไทย", ["ภ", "า", "ษ", "า", "ไ", "ท", "ย"]),
        ("ที่", ["ที่"]),
        ("နေ", ["နေ"]),
        ("cafe\u0301s", ["cafe\u0301s"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("\u200fשלום \u200f!", ["שלום", "!"]),
        ("\u2764\ufe0fok", ["\u2764\ufe0f", "ok"]),
        ("漢\u0301a", ["漢\u0301", "a"]),
        ("\u0301a", ["\u0301a"]),
        ("a\x00b", ["a", "b"]),
        ("不。是", ["不", "。", "是"]),
    ],
)
def test_units_by_hand(text: str, expected: list[str]) -> None:
    assert units_of(text) == expected


@settings(deadline=None)
@given(st.text())
def test_units_are_ordered_and_cover_every_visible_character(text: str) -> None:
    spans = split_units(text)
    covered = {index for start, end in spans for index in range(start, end)}
    assert all(start < end for start, end in spans)
    assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))
    for index, character in enumerate(text):
        if unicodedata.category(character)[0] in "LMNPS":
            assert index in covered
        if character.isspace():
            assert index not in covered


@settings(deadline=None)
@given(st.text(alphabet="ab. 我", min_size=1), st.integers(0, 5))
def test_chosen_units_are_units_and_at_least_one(text: str, seed: int) -> None:
    chosen, units = choose_units(text, 0.2, seed), split_units(text)
    assert chosen == [unit for unit in units if unit in set(chosen)]
    assert bool(chosen) == bool(units)


def test_everything_is_chosen_at_rate_one() -> None:
    assert choose_units("a b c", 1, 0) == split_units("a b c")


def test_about_the_rate_is_chosen_and_the_seed_and_the_text_matter() -> None:
    text = " ".join(f"w{index}" for index in range(20_000))
    chosen = choose_units(text, 0.15, 1)
    # Five standard deviations of a binomial of 20,000 draws.
    assert abs(len(chosen) / 20_000 - 0.15) < 5 * (0.15 * 0.85 / 20_000) ** 0.5
    assert chosen == choose_units(text, 0.15, 1)
    assert chosen != choose_units(text, 0.15, 2)
    assert chosen != choose_units(text + " ", 0.15, 1)


def test_a_lower_rate_chooses_among_the_same_units() -> None:
    text = " ".join("abcdefghijklmnopqrstuvwxyz" * 10)
    assert set(choose_units(text, 0.1, 3)) <= set(choose_units(text, 0.4, 3))


def test_the_choice_never_changes_between_versions() -> None:
    assert choose_units("the quick brown fox jumps over the lazy dog", 0.3, 7) == [(0, 3), (16, 19)]


@pytest.mark.parametrize("rate", [0, -0.1, 1.5])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match=r"mask_rate: expected more than 0 and at most 1, found .*; 0.15 is usual"):
        choose_units("a", rate, 0)
