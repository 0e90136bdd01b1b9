"""Cleaning of single lines: Unicode, invisible characters, white space, length; and the fingerprint of a sentence."""

from __future__ import annotations

import hashlib
import re
import unicodedata

# Control characters that are no white space, zero-width space, word joiner, soft hyphen, marks of writing direction,
# byte order mark, lone surrogates. What carries meaning stays: ZWNJ and ZWJ (Persian, Indic scripts, emoji), the
# Mongolian vowel separator, Arabic number signs, variation selectors, tag characters (flags).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
    "\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_JOINERS = "\u200c\u200d"
_WIDE = re.compile(
    "[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\U00020000-\U0003fffd]"
)


class _Kept(dict[int, int | None]):
    """A table for `str.translate`, filled as characters are met: letters, marks and numbers stay, the rest goes."""

    def __missing__(self, code: int) -> int | None:
        kept = code if unicodedata.category(chr(code))[0] in "LMN" else None
        self[code] = kept
        return kept


_KEPT = _Kept()
_ASCII_DROPPED = bytes(code for code in range(128) if _KEPT[code] is None)


def normalise(text: str) -> str:
    """NFC, without invisible characters, every run of white space one space, none at the ends; idempotent.

    HTML entities, case, accents, ZWNJ and ZWJ are not touched. Lone surrogates, which no file could hold, go.
    """
    if not text.isprintable():  # none of the invisible ones is printable, and to ask is cheap
        text = _INVISIBLE.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def fingerprint(text: str) -> int:
    """64 bits of BLAKE2b that tell sentences apart whatever their case, spacing and punctuation.

    The digest is of the casefolded text with everything but letters, marks and numbers removed; where nothing is left,
    of the text itself. Give it text from `normalise`, so that composed and decomposed characters are the same.
    """
    if text.isascii():  # three times as quick as what follows, and the same
        essence = text.lower().encode("ascii").translate(None, _ASCII_DROPPED)
    else:
        essence = text.casefold().translate(_KEPT).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(essence or text.encode("utf-8"), digest_size=8).digest(), "little")


def display_width(text: str) -> int:
    """Characters, the wide ones of East Asian scripts counted twice: comparable between scripts."""
    return len(text) if text.isascii() else len(text) + sum(1 for _ in _WIDE.finditer(text))


def length_problem(text: str, minimum: int, maximum: int) -> str | None:
    """Why a normalised text is not kept: `empty` (joiners alone count as nothing), `too_short`, `too_long`; or None.

    Args:
        text: what `normalise` gave.
        minimum, maximum: characters, both allowed.
    """
    if not text.strip(_JOINERS):
        return "empty"
    if len(text) < minimum:
        return "too_short"
    return "too_long" if len(text) > maximum else None
