"""MLM and CdLM batches by length and token budget; batch `i` is a function of the seed and `i` alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError

IGNORED = -100
NO_LINK = -1
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """What batches need to know of the joint vocabulary: its size and the ids of the special tokens."""

    size: int
    start: int
    end: int
    padding: int
    mask: int
    special: tuple[int, ...]


class Examples(Protocol):
    """A kind of example that can be packed into batches."""

    def lengths(self) -> Indices:
        """Padded cost of each example in tokens."""

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        """The model's inputs for these examples."""

    def tokens(self, indices: Indices) -> int:
        """Real tokens of these examples, padding not counted."""


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

    def lengths(self) -> Indices:
        return np.minimum(self.texts.lengths(), self.max_length - 2) + 2

    def tokens(self, indices: Indices) -> int:
        return int(np.minimum(self.texts.lengths_at(indices), self.max_length - 2).sum() + 2 * len(indices))

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        ids, mask = pad_with_specials([self.texts[int(i)] for i in indices], self.vocabulary, self.max_length)
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
        languages: ids of the languages of x and y.
    """

    inputs: Ragged
    outputs: Ragged
    links: Ragged
    languages: tuple[int, int]
    vocabulary: Vocabulary
    max_length: int

    def lengths(self) -> Indices:
        longer = np.maximum(self.inputs.lengths(), self.outputs.lengths())
        return np.minimum(longer, self.max_length - 2) + 2

    def tokens(self, indices: Indices) -> int:
        """The mean of both sides: the lower half reads x, the upper half speaks y."""
        limit = self.max_length - 2
        both = sum(np.minimum(side.lengths_at(indices), limit).sum() for side in (self.inputs, self.outputs))
        return int(both // 2 + 2 * len(indices))

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        chosen = [int(i) for i in indices]
        ids, mask = pad_with_specials([self.inputs[i] for i in chosen], self.vocabulary, self.max_length)
        output_ids, output_mask = pad_with_specials([self.outputs[i] for i in chosen], self.vocabulary, self.max_length)
        ordering = orderings([self.links[i] for i in chosen], mask.sum(1), output_mask)
        return _tensors(
            input_ids=ids,
            attention_mask=mask,
            ordering=ordering,
            output_mask=output_mask,
            labels=np.where(output_mask == 1, output_ids, IGNORED),
            language=np.full(len(chosen), self.languages[0], dtype=np.int64),
            output_language=np.full(len(chosen), self.languages[1], dtype=np.int64),
        )


def pad_with_specials(
    sequences: Sequence[NDArray[np.int32]], vocabulary: Vocabulary, max_length: int
) -> tuple[Indices, Indices]:
    """Cut to `max_length`, put special tokens around, pad: ids (B, L) and the 0/1 mask (B, L)."""
    cut = [sequence[: max_length - 2] for sequence in sequences]
    width = max(len(sequence) for sequence in cut) + 2
    ids = np.full((len(cut), width), vocabulary.padding, dtype=np.int64)
    mask = np.zeros((len(cut), width), dtype=np.int64)
    for row, sequence in enumerate(cut):
        ids[row, 0] = vocabulary.start
        ids[row, 1 : len(sequence) + 1] = sequence
        ids[row, len(sequence) + 1] = vocabulary.end
        mask[row, : len(sequence) + 2] = 1
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
    for row, (link, input_length) in enumerate(zip(links, input_lengths)):
        output_length = int(output_mask[row].sum())
        inside = link[: output_length - 2].astype(np.int64)
        reachable = (inside != NO_LINK) & (inside < input_length - 2)
        ordering[row, 1 : output_length - 1] = np.where(reachable, inside + 1, NO_LINK)
        ordering[row, 0] = 0
        ordering[row, output_length - 1] = input_length - 1
    return ordering


def _tensors(**arrays: NDArray[Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass
class Stream:
    """An endless, shuffled sequence of batches of one kind of example, each within a token budget.

    Attributes:
        batch_tokens: examples times longest example of a batch, at most.
        seed: fixes the order; an epoch is one pass over all examples.
    """

    examples: Examples
    batch_tokens: int
    seed: int
    _epochs: list[list[Indices]] = field(default_factory=list, repr=False)

    def indices(self, batch: int) -> Indices:
        """The examples of batch number `batch`.

        Raises:
            DataError: there are no examples.
        """
        epoch = 0
        while True:
            if epoch == len(self._epochs):
                self._epochs.append(self._shuffle(epoch))
            if batch < len(self._epochs[epoch]):
                return self._epochs[epoch][batch]
            batch -= len(self._epochs[epoch])
            epoch += 1

    def _shuffle(self, epoch: int) -> list[Indices]:
        """One pass: examples of like length together, batches in random order."""
        random = np.random.default_rng((self.seed, epoch))
        lengths = self.examples.lengths()
        if len(lengths) == 0:
            raise DataError(
                "training: expected text or pairs to make batches of, found none; "
                "give more data, or give the stages that need it a share of 0"
            )
        order = np.lexsort((random.random(len(lengths)), lengths))
        batches = pack(order, lengths, self.batch_tokens)
        return [batches[i] for i in random.permutation(len(batches))]


def pack(order: Indices, lengths: Indices, batch_tokens: int) -> list[Indices]:
    """Cut `order`, sorted by rising length, into batches of at most `batch_tokens` padded tokens, or of one example."""
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or (end - start + 1) * lengths[order[end]] > batch_tokens
        if full:
            batches.append(order[start:end])
            start = end
    return batches


class PlannedBatches(Dataset[dict[str, Any]]):
    """The batches of one stage: item `i` is what update `i` trains on, whatever was asked for before.

    Each item has one part a stream, with its weight in the loss, and the number of its real tokens.
    """

    def __init__(
        self, streams: Sequence[tuple[Examples, float]], *, updates: int, batch_tokens: int, seed: int
    ) -> None:
        total = sum(share for _, share in streams)
        self.weights = [share / total for _, share in streams]
        self.streams = [
            Stream(examples, max(1, round(batch_tokens * weight)), seed=seed * 1000 + number)
            for number, ((examples, _), weight) in enumerate(zip(streams, self.weights))
        ]
        self.updates = updates
        self.seed = seed

    def __len__(self) -> int:
        return self.updates

    def __getitem__(self, index: int) -> dict[str, Any]:
        parts, tokens = [], 0
        for number, stream in enumerate(self.streams):
            indices = stream.indices(index)
            random = np.random.default_rng((self.seed, number, index))
            parts.append(stream.examples.collate(indices, random))
            tokens += stream.examples.tokens(indices)
        return {"parts": parts, "weights": self.weights, "tokens": tokens}

    def mean_tokens(self, sample: int = 64) -> float:
        """Real tokens of an update, averaged over the first `sample` of them."""
        numbers = range(sample)
        return sum(s.examples.tokens(s.indices(i)) for i in numbers for s in self.streams) / sample
