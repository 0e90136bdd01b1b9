"""The order of training: which examples make batch `i`, a function of the seed and `i` alone, in bounded memory.

An epoch is one pass over all examples, cut into blocks of at most `BLOCK`. Inside a block, examples of like length go
together and the batches come in random order. The members of a block are drawn by a pseudo-random permutation of all
examples that is computed where it is needed: a Feistel network (Luby and Rackoff 1988, How to construct pseudorandom
permutations) over the next power of four, walked on until it is back among the examples (Black and Rogaway 2002,
Ciphers with arbitrary finite domains). So nothing that is kept grows with the number of examples.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trelm.errors import DataError

BLOCK = 2**20
"""Examples that are ordered at a time: about 50 MB meanwhile, 16 MB afterwards."""

Indices = NDArray[np.int64]

_ROUNDS = 8
_CHUNK = 2**16  # numbers that are permuted at a time: they stay in the cache


class Examples(Protocol):
    """A kind of example that can be packed into batches."""

    def __len__(self) -> int:
        """How many there are."""

    def lengths_at(self, indices: Indices) -> Indices:
        """Padded cost of each of these examples in tokens."""

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        """The model's inputs for these examples."""

    def tokens(self, indices: Indices) -> int:
        """Real tokens of these examples, padding not counted."""


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random order of 0 .. size - 1, each place computed by itself.

    Attributes:
        keys: one uint64 a round.
    """

    size: int
    keys: NDArray[np.uint64]

    @staticmethod
    def drawn(size: int, random: np.random.Generator) -> Permutation:
        """One of the orders, as the generator says."""
        return Permutation(size, random.integers(2**64, size=_ROUNDS, dtype=np.uint64))

    def at(self, start: int, stop: int) -> Indices:
        """What stands at the places start .. stop - 1."""
        found = np.empty(stop - start, dtype=np.int64)
        for begin in range(0, len(found), _CHUNK):
            places = np.arange(start + begin, min(start + begin + _CHUNK, stop), dtype=np.uint64)
            found[begin : begin + _CHUNK] = self._walk(places)
        return found

    def _walk(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        values = self._once(values)
        while len(outside := np.flatnonzero(values >= self.size)):
            values[outside] = self._once(values[outside])
        return values

    def _once(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        half = np.uint64(max(1, (max(self.size - 1, 1).bit_length() + 1) // 2))
        mask = np.uint64((1 << int(half)) - 1)
        left, right = values >> half, values & mask
        for key in self.keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        return (left << half) | right


@dataclass(frozen=True)
class Block:
    """One block of one epoch, in order: batch `k` is `members[cuts[turns[k]] : cuts[turns[k] + 1]]`."""

    number: int
    members: NDArray[np.int64]
    cuts: Indices
    turns: Indices

    def batch(self, number: int) -> Indices:
        """The examples of one of the block's batches."""
        turn = int(self.turns[number])
        return self.members[self.cuts[turn] : self.cuts[turn + 1]]


@dataclass
class Stream:
    """An endless, shuffled sequence of batches of one kind of example, each within a token budget.

    Attributes:
        batch_tokens: examples times longest example of a batch, at most.
        seed: fixes the order; an epoch is one pass over all examples.
        block: examples that are ordered at a time. With no more of them than that, an epoch is one block.
    """

    examples: Examples
    batch_tokens: int
    seed: int
    block: int = BLOCK
    _ends: list[int] = field(default_factory=list, repr=False)  # batches of all blocks up to each, epoch after epoch
    _current: Block | None = field(default=None, repr=False)

    def indices(self, batch: int) -> Indices:
        """The examples of batch number `batch`.

        Raises:
            DataError: there are no examples.
        """
        while not self._ends or batch >= self._ends[-1]:
            self._ends.append((self._ends[-1] if self._ends else 0) + self._count(len(self._ends)))
        number = bisect_right(self._ends, batch)
        if self._current is None or self._current.number != number:
            self._current = self._ordered(number)
        return self._current.batch(batch - (self._ends[number - 1] if number else 0))

    @property
    def _blocks(self) -> int:
        """Blocks of an epoch."""
        return -(-len(self.examples) // self.block)

    def _count(self, number: int) -> int:
        """How many batches a block has."""
        if len(self.examples) == 0:
            raise DataError(
                "training: expected text or pairs to make batches of, found none; "
                "give more data, or give the stages that need it a share of 0"
            )
        if self._blocks == 1 and number > 0:  # the same examples, and the cuts depend on their lengths alone
            return self._ends[0]
        lengths = np.sort(self.examples.lengths_at(self._members(number)))
        return len(cuts(lengths, self.batch_tokens)) - 1

    def _members(self, number: int) -> Indices:
        """The examples of a block, not yet in order; blocks of an epoch are alike in size."""
        epoch, place = divmod(number, self._blocks)
        size = len(self.examples)
        if self._blocks == 1:
            return np.arange(size)
        order = Permutation.drawn(size, np.random.default_rng((self.seed, epoch)))
        return order.at(place * size // self._blocks, (place + 1) * size // self._blocks)

    def _ordered(self, number: int) -> Block:
        """Examples of like length together, batches in random order."""
        epoch, place = divmod(number, self._blocks)
        random = np.random.default_rng((self.seed, epoch) if self._blocks == 1 else (self.seed, epoch, place + 1))
        members = self._members(number)
        lengths = self.examples.lengths_at(members)
        order = np.lexsort((random.random(len(lengths)), lengths))
        ends = cuts(lengths[order], self.batch_tokens)
        return Block(number, members[order], ends, random.permutation(len(ends) - 1))


def pack(order: Indices, lengths: Indices, batch_tokens: int) -> list[Indices]:
    """Cut `order`, sorted by rising length, into batches of at most `batch_tokens` padded tokens, or of one example."""
    ends = cuts(lengths[order], batch_tokens).tolist()
    return [order[start:end] for start, end in zip(ends, ends[1:])]


def cuts(lengths: Indices, batch_tokens: int) -> Indices:
    """Where the batches of examples of rising lengths [n] begin, and n at the end; each takes as many as go in."""
    starts = np.flatnonzero(np.diff(lengths, prepend=-1))  # of each length
    found, begin = [np.zeros(min(1, len(lengths)), dtype=np.int64)], 0
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(lengths)]):
        length = int(lengths[start])
        room = max(1, batch_tokens // length) if length else len(lengths)  # examples of it that a batch can have
        first = max(start, begin + room)
        if first < end:
            found.append(np.arange(first, end, room))
            begin = int(found[-1][-1])
    return np.append(np.concatenate(found), len(lengths))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014), by which every bit of the result depends on every bit given."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
