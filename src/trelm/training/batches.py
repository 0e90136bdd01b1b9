"""MLM and CdLM batches by length and token budget; batch `i` is a function of the seed and `i` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from trelm import processes
from trelm.corpus.ragged import Ragged
from trelm.errors import TrainingError
from trelm.training.order import Examples, Indices, Stream

IGNORED = -100
NO_LINK = -1
TEACHER_START = "teacher_start"
"""Of each position the first of the teacher's tokens that it is linked to; see `teaching.py`."""
SHOWN = 5  # examples of a batch that a message names


@dataclass(frozen=True)
class Vocabulary:
    """What batches need to know of the joint vocabulary: its size and the ids of the special tokens."""

    size: int
    start: int
    end: int
    padding: int
    mask: int
    special: tuple[int, ...]


@dataclass(frozen=True)
class MaskedExamples:
    """Masked language modelling: 15 % of the tokens; of these 80 % masked, 10 % random, 10 % kept.

    Attributes:
        texts: token ids without special tokens. language: id of their language.
        max_length: tokens of a sequence, special ones counted.
    """

    texts: Ragged
    language: int
    vocabulary: Vocabulary
    max_length: int
    mask_rate: float

    def __len__(self) -> int:
        return len(self.texts)

    def lengths_at(self, indices: Indices) -> Indices:
        return np.minimum(self.texts.lengths_at(indices), self.max_length - 2) + 2

    def tokens(self, indices: Indices) -> int:
        return int(np.minimum(self.texts.lengths_at(indices), self.max_length - 2).sum() + 2 * len(indices))

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        ids, mask = pad_with_specials(self.texts.sequences(indices), self.vocabulary, self.max_length)
        labels = mask_tokens(ids, mask, self.vocabulary, self.mask_rate, random)
        return _tensors(
            input_ids=ids, attention_mask=mask, labels=labels, language=np.full(len(ids), self.language, dtype=np.int64)
        )


@dataclass(frozen=True)
class CrossLingualExamples:
    """CdLM: read x, reorder by the word links, predict every token of y (METHOD section 5, stage 2).

    Attributes:
        inputs, outputs: x and y as token ids without special tokens.
        links: for every token of y its position in x, or -1.
        languages: ids of the languages of x and y. label_rate: share of the tokens of y that are predicted, drawn anew
            for each batch; 1: every one, as published.
    """

    inputs: Ragged
    outputs: Ragged
    links: Ragged
    languages: tuple[int, int]
    vocabulary: Vocabulary
    max_length: int
    label_rate: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs)

    def lengths_at(self, indices: Indices) -> Indices:
        longer = np.maximum(self.inputs.lengths_at(indices), self.outputs.lengths_at(indices))
        return np.minimum(longer, self.max_length - 2) + 2

    def tokens(self, indices: Indices) -> int:
        """The mean of both sides: the lower half reads x, the upper half speaks y."""
        limit = self.max_length - 2
        both = sum(np.minimum(side.lengths_at(indices), limit).sum() for side in (self.inputs, self.outputs))
        return int(both // 2 + 2 * len(indices))

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        ids, mask = pad_with_specials(self.inputs.sequences(indices), self.vocabulary, self.max_length)
        output_ids, output_mask = pad_with_specials(self.outputs.sequences(indices), self.vocabulary, self.max_length)
        ordering = orderings(self.links.sequences(indices), mask.sum(1), output_mask)
        return _tensors(
            input_ids=ids,
            attention_mask=mask,
            ordering=ordering,
            output_mask=output_mask,
            labels=np.where(self._predicted(output_mask, random), output_ids, IGNORED),
            language=np.full(len(ids), self.languages[0], dtype=np.int64),
            output_language=np.full(len(ids), self.languages[1], dtype=np.int64),
        )

    def _predicted(self, mask: Indices, random: np.random.Generator) -> NDArray[np.bool_]:
        real: NDArray[np.bool_] = mask == 1
        if self.label_rate == 1:
            return real
        drawn = real & (random.random(mask.shape) < self.label_rate)
        return drawn if drawn.any() else real


def pad_with_specials(
    sequences: Sequence[NDArray[np.int32]], vocabulary: Vocabulary, max_length: int
) -> tuple[Indices, Indices]:
    """Cut to `max_length`, put special tokens around, pad: ids (B, L) and the 0/1 mask (B, L)."""
    cut = [sequence[: max_length - 2] for sequence in sequences]
    lengths = np.fromiter(map(len, cut), dtype=np.int64, count=len(cut))
    places = np.arange(int(lengths.max()) + 2)
    mask = (places < lengths[:, None] + 2).astype(np.int64)
    ids = np.full(mask.shape, vocabulary.padding, dtype=np.int64)
    ids[:, 0] = vocabulary.start
    ids[(places > 0) & (places <= lengths[:, None])] = np.concatenate(cut)
    ids[np.arange(len(cut)), lengths + 1] = vocabulary.end
    return ids, mask


def mask_tokens(
    ids: Indices, mask: Indices, vocabulary: Vocabulary, rate: float, random: np.random.Generator
) -> Indices:
    """Choose tokens, corrupt them in `ids` in place, return the labels (B, L); at least one token is chosen."""
    candidates = (mask == 1) & ~np.isin(ids, vocabulary.special)
    chosen = candidates & (random.random(ids.shape) < rate)
    if not chosen.any():
        places = np.argwhere(candidates if candidates.any() else mask == 1)
        chosen[tuple(places[random.integers(len(places))])] = True
    labels = np.where(chosen, ids, IGNORED)
    action = random.random(ids.shape)
    ids[chosen & (action < 0.8)] = vocabulary.mask
    replaced = chosen & (action >= 0.8) & (action < 0.9)
    ids[replaced] = _ordinary(vocabulary, int(replaced.sum()), random)
    return labels


def _ordinary(vocabulary: Vocabulary, count: int, random: np.random.Generator) -> Indices:
    """Random ids (count,), never special ones: a padding token in a sentence would move the positions after it."""
    special = np.unique(vocabulary.special)
    drawn = random.integers(vocabulary.size - len(special), size=count)
    return drawn + np.searchsorted(special - np.arange(len(special)), drawn, side="right")


def orderings(links: Sequence[NDArray[np.int32]], input_lengths: Indices, output_mask: Indices) -> Indices:
    """a(j) in the padded coordinates, special tokens linked to their like: (B, T), -1 where there is no link.

    Links to what was cut off count as none.
    """
    ordering = np.full(output_mask.shape, NO_LINK, dtype=np.int64)
    ends = output_mask.sum(1) - 1
    places = np.arange(output_mask.shape[1])
    inside = (places > 0) & (places < ends[:, None])
    linked = np.concatenate([link[:end] for link, end in zip(links, ends - 1)]).astype(np.int64)
    reach = np.repeat(input_lengths - 2, ends - 1)
    ordering[inside] = np.where((linked != NO_LINK) & (linked < reach), linked + 1, NO_LINK)
    ordering[:, 0] = 0
    ordering[np.arange(len(ends)), ends] = input_lengths - 1
    return ordering


def label_count(part: dict[str, Tensor]) -> int | None:
    """Labels of a part, at least 1; None where it has none of the kind that the models of text have."""
    labels = part.get("labels")
    return None if labels is None or labels.ndim != 2 else max(1, int((labels != IGNORED).sum()))


def link_count(part: dict[str, Tensor]) -> int | None:
    """Positions of a part that a teacher teaches, at least 1; None where it has no teacher."""
    starts = part.get(TEACHER_START)
    return None if starts is None else max(1, int((starts != NO_LINK).sum()))


def _tensors(**arrays: NDArray[Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class SequentialBatches(Protocol):
    """Batches of one process that are made in order, as of text that is read meanwhile; see `streaming.py`."""

    def batch(self, number: int) -> tuple[dict[str, Tensor], int]:
        """The model's inputs of batch `number`, from 0, and its real tokens."""

    def position(self) -> dict[str, Any]:
        """Where it stands, as plain values for JSON."""

    def restore(self, position: dict[str, Any]) -> None:
        """Go on from there."""


@runtime_checkable
class SequentialExamples(Protocol):
    """Text that is read while training."""

    def sequence(self, batch_tokens: int, seed: int) -> SequentialBatches:
        """This process's batches of it, from its beginning; `batch_tokens` are those of all processes."""

    def masked_at(self, mask_rate: float) -> SequentialExamples:
        """The same text with another share of the tokens to be predicted."""


@dataclass(frozen=True)
class PlannedPart:
    """What one kind of examples gives to each batch: any of its batches can be made at once.

    Attributes:
        seed: of the masks, and number: among the kinds.
    """

    order: Stream
    seed: int
    number: int

    @property
    def examples(self) -> Examples:
        return self.order.examples

    def indices(self, index: int) -> Indices:
        """The examples that it gives to batch `index`."""
        return self.order.indices(index)

    def batch(self, index: int) -> tuple[dict[str, Tensor], int]:
        """The model's inputs, and their real tokens."""
        indices = self.indices(index)
        random = np.random.default_rng((self.seed, self.number, index))
        return self.examples.collate(indices, random), self.examples.tokens(indices)


class PlannedBatches(Dataset[dict[str, Any]]):
    """The batches of one stage: item `i` is what update `i` trains on, whatever was asked for before.

    Each item has one part a kind of examples, with its weight in the loss and the number of its labels, and the number
    of the item's real tokens. Of several processes each is given the whole item, to take its share; but parts of text
    that is read while training are its own already (`is_own`), with labels and tokens counted in it alone
    (`own_tokens`), and the item says where that text stands (`position`).
    """

    def __init__(
        self,
        streams: Sequence[tuple[Examples | SequentialExamples, float]],
        *,
        updates: int,
        batch_tokens: int,
        seed: int,
    ) -> None:
        total = sum(share for _, share in streams)
        self.weights = [share / total for _, share in streams]
        self.streams: list[PlannedPart] = []
        self.sequences: dict[int, SequentialBatches] = {}
        for number, ((examples, _), weight) in enumerate(zip(streams, self.weights)):
            room, own_seed = max(1, round(batch_tokens * weight)), seed * 1000 + number
            if isinstance(examples, SequentialExamples):
                self.sequences[number] = examples.sequence(room, own_seed)
            else:
                self.streams.append(PlannedPart(Stream(examples, room, seed=own_seed), seed, number))
        self.updates = updates
        self.seed = seed

    def __len__(self) -> int:
        return self.updates

    def __getitem__(self, index: int) -> dict[str, Any]:
        made = {part.number: part.batch(index) for part in self.streams}
        own = {number: sequence.batch(index) for number, sequence in self.sequences.items()}
        parts = [(made | own)[number][0] for number in range(len(self.weights))]
        return {
            "parts": parts,
            "weights": self.weights,
            "labelled": [label_count(part) for part in parts],
            "linked": [link_count(part) for part in parts],
            "is_own": [number in own for number in range(len(parts))],
            "tokens": sum(tokens for _, tokens in made.values()),
            "own_tokens": sum(tokens for _, tokens in own.values()),
            "position": {str(number): sequence.position() for number, sequence in self.sequences.items()},
        }

    def workers(self, wanted: int) -> int:
        """How many processes may make batches ahead: one, where they can only be made in order."""
        return min(1, wanted) if self.sequences else wanted

    def restore(self, positions: Sequence[dict[str, Any]], process: int, folder: Path) -> None:
        """Go on where a checkpoint was written.

        Args:
            positions: `position` of the last item of each process. folder: of the training, for messages.

        Raises:
            TrainingError: text that is read while training was shared by another number of processes.
        """
        if not self.sequences:
            return
        if len(positions) != processes.count():
            raise TrainingError(
                f"{folder}: expected {len(positions)} processes, which began to read the streamed text, found "
                f"{processes.count()}; start as many"
            )
        for number, sequence in self.sequences.items():
            sequence.restore(positions[process][str(number)])

    def describe(self, index: int) -> str:
        """Which examples update `index` trains on, for a message: the first few of each kind, counted from 1."""
        shown = ["streamed text"] if self.sequences else []
        for part in self.streams:
            numbers = part.indices(index) + 1
            more = ", ..." if len(numbers) > SHOWN else ""
            shown.append(f"lines {', '.join(map(str, sorted(numbers.tolist())[:SHOWN]))}{more}")
        return f"batch {index + 1}: {'; '.join(shown)} of its texts"

    def sample(self, count: int) -> Indices:
        """Numbers of so many batches, spread evenly; the first ones where they can only be made in order."""
        last = (min(count, self.updates) if self.sequences else self.updates) - 1
        return np.unique(np.linspace(0, last, count).astype(int))

    def mean_tokens(self, sample: int = 64) -> float:
        """Real tokens of an update of all processes, averaged over the first `sample` of them."""
        own = sum(sequence.batch(i)[1] for i in range(sample) for sequence in self.sequences.values())
        planned = sum(p.examples.tokens(p.indices(i)) for i in range(sample) for p in self.streams)
        return (planned + own * processes.count()) / sample
