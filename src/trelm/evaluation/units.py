"""Which parts of a sentence are masked: words, characters and signs of the text itself, whatever the tokenizer."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from hashlib import blake2b

from trelm.errors import ConfigError

# Scripts written without spaces, by the first words of their characters' Unicode names.
UNSPACED_SCRIPTS = (
    "CJK UNIFIED IDEOGRAPH",
    "CJK COMPATIBILITY IDEOGRAPH",
    "IDEOGRAPHIC ",
    "HIRAGANA ",
    "KATAKANA ",
    "KATAKANA-HIRAGANA ",
    "HALFWIDTH KATAKANA",
    "THAI ",
    "LAO ",
    "KHMER ",
    "MYANMAR ",
)
HASH_RANGE = 2**64

Span = tuple[int, int]


def split_units(text: str) -> list[Span]:
    """The units of a text: character spans (start, end), in order, that do not overlap.

    A run of letters, marks and digits (Unicode categories L, M, N) is one unit, except that a character of a script
    written without spaces (Han, Hiragana, Katakana, Thai, Lao, Khmer, Myanmar) is a unit of its own, as is every
    other visible character. Marks belong to the character before them, and so do invisible format characters
    (category Cf): a Persian word with a zero-width non-joiner inside is one unit. Spaces, control characters, and
    format characters with nothing before them are in no unit.
    """
    spans: list[Span] = []
    in_run = False
    for index, character in enumerate(text):
        kind = _kind(character)
        touches = bool(spans) and spans[-1][1] == index
        if touches and (kind in ("mark", "format") or (in_run and kind == "letter")):
            spans[-1] = (spans[-1][0], index + 1)
        elif kind not in ("space", "format"):
            spans.append((index, index + 1))
            in_run = kind in ("letter", "mark")
    return spans


def choose_units(text: str, rate: float, seed: int) -> list[Span]:
    """The units of `text` to mask: each by its own hash of (seed, text, number of the unit), about `rate` of them.

    The choice depends on nothing else: not on other sentences, their order, the tokenizer or the process. A text with
    any unit has at least one chosen (the one of the lowest hash).

    Raises:
        ConfigError: `rate` is not above 0 and at most 1.
    """
    if not 0 < rate <= 1:
        raise ConfigError(f"mask_rate: expected more than 0 and at most 1, found {rate}; 0.15 is usual")
    units = split_units(text)
    if not units:
        return []
    hashes = _unit_hashes(text, len(units), seed)
    chosen = [unit for unit, value in zip(units, hashes) if value < rate * HASH_RANGE]
    return chosen or [units[hashes.index(min(hashes))]]


def _unit_hashes(text: str, units: int, seed: int) -> list[int]:
    """A 64-bit number for each unit."""
    state = blake2b(f"{seed}\0{text}\0".encode("utf-8", "surrogatepass"), digest_size=8)
    numbers = []
    for index in range(units):
        one = state.copy()
        one.update(str(index).encode())
        numbers.append(int.from_bytes(one.digest(), "big"))
    return numbers


@lru_cache(maxsize=65_536)
def _kind(character: str) -> str:
    """`letter`, `mark`, `single`, `format` or `space`."""
    category = unicodedata.category(character)
    if character.isspace() or category == "Cc":
        return "space"
    if category == "Cf":
        return "format"
    if category[0] == "M":
        return "mark"
    if category[0] not in "LN" or unicodedata.name(character, "").startswith(UNSPACED_SCRIPTS):
        return "single"
    return "letter"
