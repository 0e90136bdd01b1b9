"""Text of two languages in equal parts, sampled and interleaved while it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trelm.corpus.files import read_lines

_MOST_REPEATS = 10  # of the smaller language


@dataclass(frozen=True)
class BalancedLines:
    """Lines of two files, the same however often they are asked for; none is kept.

    Attributes:
        files, wanted, lines: of each side its file, the lines that are given, and the lines that it has.
        seed: of the samples.
    """

    files: tuple[Path, Path]
    wanted: tuple[int, int]
    lines: tuple[int, int]
    seed: int

    def __iter__(self) -> Iterator[str]:
        first, second = (
            _repeated(path, wanted, lines, np.random.default_rng([self.seed, number]))
            for number, (path, wanted, lines) in enumerate(zip(self.files, self.wanted, self.lines))
        )
        return _interleaved(first, second)


def balanced_lines(source: Path, target: Path, limit: int, seed: int) -> BalancedLines:
    """Lines of both files, interleaved so that at any point both have given about as many characters.

    The smaller file is repeated, at most ten times; of the larger one, no more is taken than balances that: an even
    sample of its lines, in their order. Memory is bounded; the same seed gives the same lines.

    Args:
        source, target: UTF-8 text; blank lines do not count.
        limit: the most lines of either file that are given, repeats counted.
        seed: of the samples.

    Raises:
        DataError: a file is empty or cannot be read.
    """
    sizes = [_size(path) for path in (source, target)]
    means = [characters / lines for lines, characters in sizes]
    totals = [characters for _, characters in sizes]
    goal = min(max(totals), _MOST_REPEATS * min(totals), *(limit * mean for mean in means))
    wanted = round(goal / means[0]), round(goal / means[1])
    return BalancedLines((source, target), wanted, (sizes[0][0], sizes[1][0]), seed)


def _size(path: Path) -> tuple[int, int]:
    """Lines that are not blank, and their characters."""
    lines = characters = 0
    for _, line in read_lines(path):
        if line.strip():
            lines, characters = lines + 1, characters + len(line)
    return lines, characters


def _repeated(path: Path, wanted: int, lines: int, generator: np.random.Generator) -> Iterator[str]:
    """`wanted` of the file's lines: the whole file as often as it goes in, then an even sample for the rest."""
    for _ in range(wanted // lines):
        yield from (line for _, line in read_lines(path) if line.strip())
    needed, left = wanted % lines, lines
    if not needed:
        return
    for _, line in read_lines(path):
        if not line.strip():
            continue
        # Knuth's selection sampling: exactly `needed` of the lines, each set of them as likely as any other.
        if generator.random() * left < needed:
            needed -= 1
            yield line
        left -= 1


def _interleaved(first: Iterator[str], second: Iterator[str]) -> Iterator[str]:
    """The lines of both, always next from the one that has given fewer characters so far."""
    ahead = 0  # characters that the first has given more than the second
    pending = [next(first, None), next(second, None)]
    while pending[0] is not None or pending[1] is not None:
        turn = pending[0] is None or (ahead > 0 and pending[1] is not None)
        line = pending[turn]
        pending[turn] = next(second if turn else first, None)
        if line is not None:
            ahead += -len(line) if turn else len(line)
            yield line
