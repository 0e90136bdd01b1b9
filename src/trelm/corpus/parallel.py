"""Pairs of translated sentences: TSV, TMX, two line-aligned files, Hub data sets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, Protocol, cast
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse

from trelm.corpus import hub
from trelm.corpus.files import expand, opened, plain_name, read_lines
from trelm.errors import data_error

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_INLINE_CODE = {"bpt", "ept", "ph", "it", "ut"}  # TMX 1.4: their content is formatting, not text
_LANGUAGES_SHOWN = 20
LONGEST_UNIT = 10_000_000
"""Bytes of a TMX file between the ends of two translation units, which are kept in memory: some fifty times so many."""
DEEPEST = 100
"""Levels of elements in a TMX file; the format itself has five, and inline codes inside one another."""


class _Positioned(Protocol):
    position: tuple[int, int]


def read_pairs(source: str | tuple[str, str], languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Pairs of (text in the source language, text in the target language), in the order of the input.

    A side may be blank: a blank line, an empty column, a TMX unit that lacks one of the two languages. The caller drops
    and counts such pairs.

    Args:
        source: a tuple of two line-aligned files or globs; an `hf://` name with two columns; a file or glob of TMX
            (`.tmx`, compressed or not) or of two-column TSV (any other ending).
        languages: codes of the source and the target language, which TMX needs.

    Raises:
        DataError: a line without exactly two columns, files of different lengths, a TMX file that is no XML or has no
            unit in both languages, and whatever the readers of files and data sets say.
    """
    if isinstance(source, tuple):
        yield from _read_aligned(*source)
    elif hub.is_hub_name(source):
        yield from cast(Iterator[tuple[str, str]], hub.read_columns(source, 2))
    else:
        for path in expand(source):
            yield from _read_tmx(path, languages) if plain_name(path).endswith(".tmx") else _read_tsv(path)


def _read_tsv(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in read_lines(path):
        columns = line.split("\t")
        if len(columns) == 2:
            yield columns[0], columns[1]
        elif not line.strip():
            yield "", ""
        else:
            found = "1 column" if len(columns) == 1 else f"{len(columns)} columns"
            hint = "keep the source text and the target text only"
            raise data_error(path, number, expected="2 columns parted by a tab", found=found, hint=hint)


def _read_aligned(source: str, target: str) -> Iterator[tuple[str, str]]:
    lengths = [0, 0]
    for pair in zip_longest(_all_lines(source), _all_lines(target)):
        lengths[0] += pair[0] is not None
        lengths[1] += pair[1] is not None
        if pair[0] is not None and pair[1] is not None:
            yield pair[0], pair[1]
    if lengths[0] != lengths[1]:
        expected = f"as many lines as in {target} ({lengths[1]:,})"
        hint = "give two files whose lines are translations of each other"
        raise data_error(source, None, expected=expected, found=f"{lengths[0]:,}", hint=hint)


def _all_lines(pattern: str) -> Iterator[str]:
    for path in expand(pattern):
        for _, line in read_lines(path):
            yield line


def _read_tmx(path: Path, languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    keys = _language_keys(languages)
    found: set[str] = set()
    complete = 0
    for unit in _units(path):
        texts: dict[str, str] = {}
        for tag, text in _variants(unit):
            found.add(tag)
            texts.setdefault(_language_key(tag, keys), text)
        complete += all(key in texts for key in keys)
        yield texts.get(keys[0], ""), texts.get(keys[1], "")
    if not complete:
        shown = ", ".join(sorted(found)[:_LANGUAGES_SHOWN]) or "no language at all"
        expected = f"translation units in {languages[0]} and {languages[1]}"
        raise data_error(
            path, None, expected=expected, found=shown, hint="check the language codes of the configuration"
        )


class _Rationed:
    """A stream that refuses to go on where nobody has said `refill` for `LONGEST_UNIT` bytes."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path, self._left = stream, path, LONGEST_UNIT

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            expected = f"a translation unit at least every {LONGEST_UNIT:,} bytes"
            hint = "check that it is a TMX file, and split or drop units that are no sentences"
            raise data_error(self._path, None, expected=expected, found="none", hint=hint)
        return data

    def refill(self) -> None:
        self._left = LONGEST_UNIT


def _units(path: Path) -> Iterator[Element]:
    """The `tu` elements of a TMX file; each is forgotten when the next one is asked for."""
    open_elements: list[Element] = []
    try:
        with opened(path) as stream:
            rationed = _Rationed(stream, path)
            for event, element in iterparse(
                cast(BinaryIO, rationed), events=("start", "end"), forbid_entities=True, forbid_external=True
            ):
                if event == "start":
                    open_elements.append(element)
                    _check_depth(path, len(open_elements))
                    continue
                open_elements.pop()
                if _local_name(element) == "tu":
                    yield element
                    rationed.refill()
                    for around in open_elements:  # all of them: what stands beside this one's parent is kept as well
                        around.clear()
    except ParseError as error:
        line = cast(_Positioned, error).position[0]
        hint = "mend the file, or export it again"
        raise data_error(path, line, expected="well-formed XML", found=f"an error ({error})", hint=hint) from None
    except DefusedXmlException as error:
        hint = "take the entity declarations out of the file"
        found = f"one that declares entities ({type(error).__name__})"
        raise data_error(path, None, expected="a plain TMX file", found=found, hint=hint) from None
    except (ValueError, LookupError) as error:  # the parser's own, of the encoding that the file declares
        hint = "convert the file to UTF-8"
        raise data_error(path, None, expected="XML in UTF-8", found=f"an error ({error})", hint=hint) from None


def _check_depth(path: Path, depth: int) -> None:
    if depth > DEEPEST:
        hint = "check that it is a TMX file"
        raise data_error(path, None, expected=f"elements at most {DEEPEST} deep", found="more", hint=hint)


def _variants(unit: Element) -> Iterator[tuple[str, str]]:
    """(language tag, text) of each variant of a translation unit."""
    for variant in unit:
        if _local_name(variant) != "tuv":
            continue
        tag = variant.get(_LANGUAGE) or variant.get("lang") or ""
        for segment in variant:
            if _local_name(segment) == "seg":
                yield tag, _text(segment)


def _text(element: Element) -> str:
    """The text inside an element, inline formatting codes left out."""
    parts = [element.text or ""]
    for child in element:
        if _local_name(child) not in _INLINE_CODE:
            parts.append(_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _local_name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _language_keys(languages: tuple[str, str]) -> tuple[str, str]:
    """Primary subtags, or whole tags where the two languages share their primary one: what tells variants apart."""
    source, target = (_primary(language) for language in languages)
    return (source, target) if source != target else (_whole(languages[0]), _whole(languages[1]))


def _language_key(tag: str, keys: tuple[str, str]) -> str:
    return _primary(tag) if _primary(tag) in keys else _whole(tag)


def _primary(tag: str) -> str:
    return _whole(tag).partition("-")[0]


def _whole(tag: str) -> str:
    return tag.strip().lower().replace("_", "-")
