"""Text of data sets that are larger than the disk: read while training, never stored, each process its own part.

What the `datasets` library does: it streams, tries a connection that breaks again (some twenty times, for minutes),
orders the shards anew in every epoch, and gives each process its shards; where there are too few of them for that, each
process reads all of them and keeps every n-th row. What is done here: cleaning as in `prepare`, and the bounded buffer,
a block of lines that is filled, shuffled and given out. The library's own buffer would lose its lines when a training
is resumed; a block is filled again from the position at its start, so that no line is lost or seen twice.

Of one epoch, the blocks of all processes together hold every line of the data sets once. Several data sets take turns,
row by row, until each is at its end. Lines are not deduplicated: that would take memory without bound.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from datasets.distributed import split_dataset_by_node

from trelm.corpus import hub
from trelm.corpus.cleaning import fingerprint, length_problem, normalise
from trelm.errors import DataError, data_error

Position = dict[str, Any]

RETRY_SECONDS = (10.0, 60.0, 300.0)
"""Waits before what a broken connection left is read again, after the library's own attempts."""

_CHUNK = 256  # rows that the library decodes at once
_SAVED_SHARDS = 16  # that a saved data set is cut into for each process: it has none of its own
_ENOUGH_SHARDS = 8  # for each process, from which on one shard more or less for some of them does not matter
_NETWORK = frozenset({"aiohttp", "httpcore", "httpx", "requests", "urllib3"})
_NOT_PASSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class StreamedLines:
    """One process's endless stream of blocks of clean lines.

    Which lines block `n` holds, and in which order, is a function of the arguments alone.

    Attributes:
        counts: `rows` and `kept` lines that were given, and those dropped, by reason: `empty`, `too_short`, `too_long`,
            `held_out`. Those of a block that is given again after `restore` count once.
    """

    _positions: list[Position | None]  # where the readers are to be opened; None: at its end
    _readers: list[_Reader | None]  # empty before anything is read from there

    def __init__(
        self,
        sources: Sequence[str],
        *,
        rank: int,
        world: int,
        seed: int,
        block_lines: int,
        min_characters: int,
        max_characters: int,
        dropped: Collection[int] = frozenset(),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Nothing is opened before the first block is asked for.

        Args:
            sources: `hf://` names of one column each, see `hub.py`; a row of several lines gives each of them.
            rank, world: number of this process, from 0, and how many there are.
            seed: of the order of shards and lines.
            block_lines: lines of a block, or a few more where the last row has several; memory is bounded by it.
            min_characters, max_characters: of a line that is kept.
            dropped: fingerprints of lines that are not given, as those of held-out and evaluation text.
            sleep: waits for so many seconds.

        Raises:
            DataError: a name that is none, or that has several columns.
        """
        self._names = {source: hub.parse_columns(source, 1) for source in sources}
        self._rank, self._world, self._seed = rank, world, seed
        self._block_lines = block_lines
        self._limits = (min_characters, max_characters)
        self._dropped = dropped
        self._sleep = sleep
        self._loaded: dict[str, Any] = {}
        self._has_read = False
        self.counts: Counter[str] = Counter()
        self._begin(0)

    def next_block(self) -> list[str]:
        """The lines of the next block, shuffled; the last block of an epoch may have fewer.

        Raises:
            DataError: a data set, split or column that is not there, a value that is no text, nothing to read in a
                whole epoch, or a connection that stays broken.
        """
        waits = iter(RETRY_SECONDS)
        start = self.position()
        while True:
            try:
                return self._fill()
            except Exception as error:  # the libraries share no base class, see `hub`
                source = list(self._names)[self._turn]
                self.restore(start)
                if isinstance(error, DataError):
                    raise
                wait = next(waits, None) if self._has_read and _is_passing(error) else None
                if wait is None:
                    raise hub.unreadable(source, error) from None
                self._sleep(wait)

    def position(self) -> Position:
        """Where the next block begins, as plain values for JSON: some hundred bytes for each data set."""
        if self._readers:
            self._positions = [None if reader is None else reader.position() for reader in self._readers]
        return {
            "process": [self._rank, self._world],
            "epoch": self._epoch,
            "block": self._block,
            "turn": self._turn,
            "lines": self._lines,
            "readers": list(self._positions),
            "counts": dict(self.counts),
        }

    def restore(self, position: Position) -> None:
        """Go on from a position that an object with the same arguments gave.

        Raises:
            DataError: it is the position of another process, or of another number of processes.
        """
        there, here = list(position["process"]), [self._rank, self._world]
        if there != here or len(position["readers"]) != len(self._names):
            expected, found = (f"a position in the part {r + 1} of {w}" for r, w in (here, there))
            hint = "resume with as many processes as the training began with"
            raise data_error(", ".join(self._names), None, expected=expected, found=found, hint=hint)
        self._epoch, self._block, self._turn = position["epoch"], position["block"], position["turn"]
        self._lines, self._positions, self._readers = position["lines"], list(position["readers"]), []
        self.counts = Counter(position["counts"])

    def shards(self) -> dict[str, tuple[int, bool]]:
        """For each data set how many shards it has, and whether these are shared out (otherwise its rows are)."""
        counts = {source: int(self._load(source).num_shards) for source in self._names}
        return {source: (count, shares_shards(count, self._world)) for source, count in counts.items()}

    def _begin(self, epoch: int) -> None:
        self._epoch, self._block, self._turn, self._lines = epoch, 0, 0, 0
        self._positions = [{"library": None, "rows": 0} for _ in self._names]
        self._readers = []

    def _fill(self) -> list[str]:
        while True:
            lines = self._read()
            if lines:
                random = np.random.default_rng((self._seed, self._epoch, self._block, self._rank))
                self._block, self._lines = self._block + 1, self._lines + len(lines)
                return [lines[i] for i in random.permutation(len(lines))]
            if self._lines == 0:
                raise self._nothing()
            self._begin(self._epoch + 1)

    def _read(self) -> list[str]:
        """The lines of a block in the order of the data sets; none at the end of the epoch."""
        sources = list(self._names)
        readers = self._readers or [
            None if at is None else self._open(s, at) for s, at in zip(sources, self._positions)
        ]
        self._readers = readers
        lines: list[str] = []
        while len(lines) < self._block_lines and any(readers):
            reader = readers[self._turn]
            row = None if reader is None else next(reader, None)
            if row is None:
                readers[self._turn] = None
            else:
                lines.extend(self._clean(sources[self._turn], row))
            self._turn = (self._turn + 1) % len(readers)
        return lines

    def _clean(self, source: str, row: Mapping[str, Any]) -> Iterator[str]:
        """The lines of a row that are kept."""
        self._has_read = True
        self.counts["rows"] += 1
        text = hub.text_in(source, self.counts["rows"], row, self._names[source].columns[0])
        for line in map(normalise, text.splitlines()):
            problem = length_problem(line, *self._limits)
            if problem is None and self._dropped and fingerprint(line) in self._dropped:
                problem = "held_out"
            self.counts[problem or "kept"] += 1
            if problem is None:
                yield line

    def _load(self, source: str) -> Any:
        if source not in self._loaded:
            loaded = hub.load(source, self._names[source])
            if isinstance(loaded, datasets.Dataset):
                loaded = loaded.to_iterable_dataset(max(1, min(len(loaded), _SAVED_SHARDS * self._world)))
            self._loaded[source] = loaded
        return self._loaded[source]

    def _open(self, source: str, position: Position) -> _Reader:
        whole = self._load(source)
        strategy = "shards" if shares_shards(whole.num_shards, self._world) else "examples"
        part = split_dataset_by_node(whole, self._rank, self._world, strategy=strategy)
        part.set_epoch(_order(self._seed, self._epoch))
        return _Reader(part, position)

    def _nothing(self) -> DataError:
        """What the user is told where a whole epoch gave no line."""
        sources, rows = ", ".join(self._names), self.counts["rows"]
        if rows:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.counts.items() if reason != "rows")
            found = f"none: all lines of {rows:,} rows were dropped ({reasons})"
            hint = "give other text, or relax the limits under `corpus`"
            return data_error(sources, None, expected="lines to train on", found=found, hint=hint)
        if self._world == 1:
            return hub.without_rows(sources)
        found = f"none in the part {self._rank + 1} of {self._world}"
        return data_error(sources, None, expected="rows for each process", found=found, hint="start fewer processes")


class _Reader:
    """The rows of one process's part of a data set in one epoch, from a position on.

    A position is the library's own state at the beginning of a chunk, and how many rows from there on have been given.
    """

    def __init__(self, part: Any, position: Position) -> None:
        self._part = part
        self._begin: dict[str, Any] | None = position["library"]
        self._given: int = position["rows"]
        if self._begin is not None:
            part.load_state_dict(self._begin)
        self._chunks = part.iter(_CHUNK)
        self._chunk: list[dict[str, Any]] = []

    def __next__(self) -> dict[str, Any]:
        while self._given >= len(self._chunk):
            if self._chunk:
                self._begin = self._part.state_dict()
                self._given -= len(self._chunk)
                self._chunk = []
            columns = next(self._chunks)
            self._chunk = [dict(zip(columns, values)) for values in zip(*columns.values())]
        self._given += 1
        return self._chunk[self._given - 1]

    def position(self) -> Position:
        return {"library": self._begin, "rows": self._given}


def shares_shards(shards: int, world: int) -> bool:
    """Whether the shards of a data set are shared out among processes: where all get as many, or nearly so."""
    return shards % world == 0 or shards >= _ENOUGH_SHARDS * world


def _order(seed: int, epoch: int) -> int:
    """A number above 0, at which the library would leave the shards as they are."""
    return 1 + int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def _is_passing(error: Exception) -> bool:
    """Whether an error may be gone at the next attempt: one of the network, or of a disk on it."""
    if isinstance(error, OSError):
        return not isinstance(error, _NOT_PASSING)
    return type(error).__module__.partition(".")[0] in _NETWORK
