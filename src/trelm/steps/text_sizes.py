"""How much text the user has, and an even sample of it, from one pass over the files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from trelm.config import Config
from trelm.corpus.files import expand, plain_name
from trelm.corpus.hub import is_hub_name
from trelm.corpus.parallel import read_pairs
from trelm.corpus.text import read_text
from trelm.steps.context import parallel_sources

MOST_CHARACTERS = 200_000_000  # of one input are read; what is beyond is told by the size of its file
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}

Item = tuple[str, ...]  # a line, or the two sides of a pair


@dataclass
class Sample:
    """An even sample of items that come one by one: every n-th of them, where n doubles as often as it must.

    Attributes:
        keep: so many characters at least are kept, where there are as many, and twice as many at most.
    """

    keep: int
    items: list[Item] = field(default_factory=list)
    characters: int = 0
    seen: int = 0
    stride: int = 1

    def add(self, item: Item) -> None:
        """Take the next item, or leave it."""
        if self.seen % self.stride == 0:
            self.items.append(item)
            self.characters += sum(map(len, item))
            if self.characters > 2 * self.keep and len(self.items) > 1:
                self.items, self.stride = self.items[::2], 2 * self.stride
                self.characters = sum(len(side) for kept in self.items for side in kept)
        self.seen += 1


@dataclass(frozen=True)
class TextSize:
    """Text of one kind.

    Attributes:
        lines: lines or pairs. characters: of each side; one side, or two.
        unpacking: seconds that reading the compressed files of it takes. sample: an even sample of it.
        extrapolated: whether the end of a large input was not read, and its size taken from its file's.
        at_least: whether the end of a large input was not read, and its size is not known.
    """

    lines: int
    characters: tuple[int, ...]
    unpacking: float
    sample: Sequence[Item]
    extrapolated: bool = False
    at_least: bool = False

    @property
    def share(self) -> float:
        """The sample's part of the characters; 1 where it is all of them."""
        return sum(len(side) for item in self.sample for side in item) / max(sum(self.characters), 1)

    @property
    def is_whole(self) -> bool:
        """Whether the sample is everything."""
        return len(self.sample) == self.lines


@dataclass(frozen=True)
class Input:
    """One file or data set.

    Attributes:
        read: its items, from the start. file: whose size tells how much of it was read; None where none does.
    """

    read: Callable[[], Iterator[Item]]
    file: Path | None = None


def look(inputs: Sequence[Input], keep: int, limit: int | None, most: int = MOST_CHARACTERS) -> TextSize:
    """Read text once: its size, and a sample of `keep` characters or up to twice as many.

    Args:
        limit: items of each input that count, from its start; all by default. most: characters of an input that are
            read.

    Raises:
        DataError: an input cannot be read.
    """
    sample, lines, unpacking, characters = Sample(keep), 0.0, 0.0, [0.0, 0.0]
    extrapolated = at_least = False
    for one in inputs:
        started, own = time.perf_counter(), [0, 0, 0]
        cut = False
        for number, item in enumerate(one.read()):
            if limit is not None and number >= limit:
                break
            sample.add(item)
            own = [own[0] + 1, own[1] + len(item[0]), own[2] + sum(map(len, item[1:]))]
            if cut := own[1] + own[2] > most:
                break
        share = _share_read(one.file, own[1] + own[2], sample.items) if cut else 1.0
        extrapolated, at_least = extrapolated or (cut and share is not None), at_least or share is None
        times = 1 / (share or 1.0)
        if limit is not None and own[0]:
            times = min(times, limit / own[0])
        lines += own[0] * times
        characters = [total + number * times for total, number in zip(characters, own[1:])]
        if one.file is not None and one.file.suffix.lower() in PACKERS:
            unpacking += (time.perf_counter() - started) * times
    sides = len(sample.items[0]) if sample.items else 1
    counts = tuple(round(count) for count in characters[:sides])
    return TextSize(round(lines), counts, unpacking, sample.items, extrapolated, at_least)


def text_inputs(sources: Sequence[str]) -> list[Input]:
    """The files and data sets of text in one language; what is named twice, once."""
    named: dict[str, None] = {}
    for source in sources:
        named.update(dict.fromkeys([source] if is_hub_name(source) else map(str, expand(source))))
    return [Input(_lines_of(name), _file(name, ".conllu")) for name in named]


def pair_inputs(config: Config) -> list[Input]:
    """The files and data sets of pairs; what is named twice, once."""
    named: dict[str | tuple[str, str], None] = {}
    for source in parallel_sources(config):
        one = not isinstance(source, str) or is_hub_name(source)
        named.update(dict.fromkeys([source] if one else map(str, expand(str(source)))))
    languages = (config.source.language, config.target.language)
    return [Input(_pairs_of(name, languages), _file(name, ".tmx") if isinstance(name, str) else None) for name in named]


def _lines_of(name: str) -> Callable[[], Iterator[Item]]:
    return lambda: ((line,) for line in read_text(name))


def _pairs_of(name: str | tuple[str, str], languages: tuple[str, str]) -> Callable[[], Iterator[Item]]:
    return lambda: read_pairs(name, languages)


def _file(name: str, not_ending: str) -> Path | None:
    """The file whose size is that of its text; None where it is no file, or holds much besides."""
    return None if is_hub_name(name) or plain_name(Path(name)).endswith(not_ending) else Path(name)


def _share_read(file: Path | None, characters: int, sample: Sequence[Item]) -> float | None:
    """About which part of a file so many characters are, by its size; None where that cannot be told.

    The sample, packed as the file is, says how many bytes a character takes.
    """
    if file is None:
        return None
    text = "\n".join("\t".join(item) for item in sample)
    packed = PACKERS.get(file.suffix.lower(), bytes)(text.encode("utf-8"))
    return min(1.0, characters * len(packed) / max(len(text), 1) / max(file.stat().st_size, 1))
