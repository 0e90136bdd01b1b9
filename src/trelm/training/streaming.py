"""Batches of text that is read while training: batch `i` of a process is a function of seed, `i` and process alone."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from trelm.training.order import Examples, Indices, pack

Position = dict[str, Any]

_REMEMBERED = 256  # positions of earlier blocks, some kilobytes each
_ORDER, _MASKS = 1, 2  # what a random choice is for: part of its seed


class Lines(Protocol):
    """An endless stream of blocks of lines that can go back to where it was."""

    def next_block(self) -> list[str]:
        """The lines of the next block."""

    def position(self) -> Position:
        """Where the next block begins, as plain values for JSON."""

    def restore(self, position: Position) -> None:
        """Go on from there."""


class _Block(NamedTuple):
    """The number of its first batch, what its lines are made into, and what of that each batch takes."""

    first: int
    examples: Examples
    batches: list[Indices]

    @property
    def end(self) -> int:
        return self.first + len(self.batches)


class SequentialStream:
    """The batches of one process, in order: a block of lines is made into batches of like length, and these shuffled.

    To ask for the next batch is cheap. To ask for an earlier or much later one reads on from the nearest block whose
    position is known.
    """

    def __init__(
        self, lines: Lines, examples: Callable[[list[str]], Examples], *, batch_tokens: int, seed: int, rank: int
    ) -> None:
        """Nothing is read before the first batch is asked for.

        Args:
            lines: this process's own, at its beginning.
            examples: makes examples of the lines of a block.
            batch_tokens: examples times longest example of a batch, at most.
            seed: of the order of batches and of the masks.
            rank: number of this process, from 0.
        """
        self._lines = lines
        self._examples_of = examples
        self._batch_tokens = batch_tokens
        self._seed, self._rank = seed, rank
        self._starts = [(0, lines.position())]  # of blocks: number of the first batch, where the lines begin
        self._block: _Block | None = None

    def batch(self, number: int) -> tuple[dict[str, Tensor], int]:
        """The model's inputs of batch `number`, from 0, and its real tokens.

        Raises:
            DataError: the text cannot be read.
        """
        block = self._block_with(number)
        indices = block.batches[number - block.first]
        random = np.random.default_rng((self._seed, self._rank, number, _MASKS))
        return block.examples.collate(indices, random), block.examples.tokens(indices)

    def position(self) -> Position:
        """Where the block of the last batch begins, as plain values for JSON."""
        number = self._starts[-1][0] if self._block is None else self._block.first
        first, at = self._start_before(number)
        return {"batch": first, "lines": at}

    def restore(self, position: Position) -> None:
        """Make the batches from there on cheap to ask for; a position is one that an equal stream gave.

        Raises:
            DataError: it belongs to another number of processes.
        """
        self._lines.restore(position["lines"])
        self._block = None
        known = dict(self._starts) | {position["batch"]: position["lines"]}
        self._starts = sorted(known.items())

    def _block_with(self, number: int) -> _Block:
        """The block that batch `number` is in, read if it is not at hand."""
        block = self._block
        if block is None or not block.first <= number < block.end:
            start, at = self._start_before(number)
            if block is None or number < block.first or start > block.first:
                self._lines.restore(at)
            else:
                start = block.end  # where the lines are
            block = self._read(start)
            while number >= block.end:
                block = self._read(block.end)
        self._block = block
        return block

    def _start_before(self, number: int) -> tuple[int, Position]:
        """The last block known to begin at batch `number` or before."""
        return self._starts[bisect_right([first for first, _ in self._starts], number) - 1]

    def _read(self, first: int) -> _Block:
        """The next block, whose first batch is number `first`."""
        if first > self._starts[-1][0]:
            self._starts.append((first, self._lines.position()))
        if len(self._starts) > _REMEMBERED:
            del self._starts[1:-1:2]
        examples = self._examples_of(self._lines.next_block())
        lengths = examples.lengths_at(np.arange(len(examples)))
        random = np.random.default_rng((self._seed, self._rank, first, _ORDER))
        batches = pack(np.lexsort((random.random(len(lengths)), lengths)), lengths, self._batch_tokens)
        return _Block(first, examples, [batches[i] for i in random.permutation(len(batches))])
