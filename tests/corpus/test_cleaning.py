"""Cleaning, fingerprints, lengths."""

from __future__ import annotations

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trelm.corpus.cleaning import _INVISIBLE, display_width, fingerprint, length_problem, normalise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two\t words\u00a0\u3000here \n", "two words here"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u200bb\u00adc\ufeff\u202e\x00d\x7f", "abcd"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("ක්\u200dෂ", "ක්\u200dෂ"),
        ("a &amp; b", "a &amp; b"),
        ("broken \ud800 half", "broken half"),
        ("\u2028\x85", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(st.characters()))
def test_normalised_text_is_one_clean_line_and_stays(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert len(once.splitlines()) <= 1
    assert "\t" not in once
    assert once == once.strip()
    once.encode("utf-8")


@given(st.text(st.characters(categories=["L", "M", "N"]), min_size=1), st.text(" .,!?-—«»\u200c", max_size=5))
def test_fingerprint_ignores_case_spacing_and_punctuation(text: str, noise: str) -> None:
    spread = noise + noise.join(text.upper()) + noise
    assert fingerprint(spread) == fingerprint(text.upper())
    assert fingerprint(text) == fingerprint(text.casefold()) or text.casefold().casefold() != text.casefold()


def test_fingerprint_heeds_letters_marks_and_digits() -> None:
    texts = ["kitab", "kitap", "1990", "1991", "कि", "का", "ni", "ñi", "!", "?", "", "中", "文"]
    assert len({fingerprint(text) for text in texts}) == len(texts)
    assert all(0 <= fingerprint(text) < 2**64 for text in texts)


def test_fingerprint_is_the_same_for_ever() -> None:
    assert fingerprint("Hello, World!") == fingerprint("hello world") == 0x5E644672268C4E6A


def test_display_width_counts_east_asian_characters_twice() -> None:
    assert display_width("abc") == 3
    assert display_width("aé中文かな한。") == 2 + 2 * 6
    assert display_width("ไทย") == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "empty"), ("\u200d", "empty"), ("a", "too_short"), ("ab", None), ("abcd", None), ("abcde", "too_long")],
)
def test_length_problem(text: str, problem: str | None) -> None:
    assert length_problem(text, 2, 4) == problem


@given(st.text(st.characters(max_codepoint=127), min_size=1))
def test_ascii_is_fingerprinted_as_all_text_is(text: str) -> None:
    kept = "".join(c for c in text.casefold() if unicodedata.category(c)[0] in "LMN") or text
    expected = hashlib.blake2b(kept.encode(), digest_size=8).digest()
    assert fingerprint(text) == int.from_bytes(expected, "little")


def test_no_invisible_character_is_printable() -> None:
    invisible = [chr(code) for code in range(0x110000) if _INVISIBLE.match(chr(code))]
    assert len(invisible) > 2000
    assert not any(character.isprintable() for character in invisible)
