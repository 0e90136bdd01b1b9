"""The order of training: nothing lost, nothing twice, budgets kept, memory bounded; small epochs by a plain rule."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from toy_training import VOCABULARY, as_lists

from trelm.corpus.ragged import Ragged
from trelm.errors import DataError
from trelm.training.batches import MaskedExamples
from trelm.training.order import Indices, Permutation, Stream, pack

LENGTHS = st.lists(st.integers(1, 40), max_size=60)


@dataclass(frozen=True)
class Bare:
    """Examples that are nothing but their lengths."""

    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.sizes)

    def lengths_at(self, indices: Indices) -> Indices:
        return np.array(self.sizes, dtype=np.int64)[indices]

    def tokens(self, indices: Indices) -> int:
        return int(self.lengths_at(indices).sum())

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        return {"indices": torch.from_numpy(indices), "noise": torch.from_numpy(random.random(3))}


@given(sizes=LENGTHS, budget=st.integers(1, 120))
def test_pack_takes_every_example_once_and_keeps_to_the_budget(sizes: list[int], budget: int) -> None:
    lengths = np.array(sizes, dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    batches = pack(order, lengths, budget)
    assert [index for batch in batches for index in batch.tolist()] == order.tolist()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
    for batch, following in zip(batches, batches[1:]):  # and no batch had room for one more
        assert (len(batch) + 1) * lengths[following[0]] > budget


def test_pack_by_hand() -> None:
    lengths = np.array([2, 3, 3, 5, 30])
    assert as_lists(pack(np.arange(5), lengths, 9)) == [[0, 1, 2], [3], [4]]
    assert pack(np.arange(0), np.zeros(0, dtype=np.int64), 9) == []


@given(sizes=LENGTHS.filter(bool), budget=st.integers(1, 120), seed=st.integers(0, 99))
def test_an_epoch_is_every_example_once(sizes: list[int], budget: int, seed: int) -> None:
    stream, batch = Stream(Bare(tuple(sizes)), budget, seed), 0
    for _ in range(3):
        seen: list[int] = []
        while len(seen) < len(sizes):
            indices = stream.indices(batch)
            assert len(indices) == 1 or len(indices) * max(sizes[i] for i in indices) <= budget
            seen += indices.tolist()
            batch += 1
        assert sorted(seen) == list(range(len(sizes)))


@given(asked=st.lists(st.integers(0, 60), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_a_batch_does_not_depend_on_what_was_asked_before(asked: list[int], seed: int) -> None:
    examples = Bare(tuple(range(1, 30)))
    stream = Stream(examples, 60, seed)
    for batch in asked:
        assert stream.indices(batch).tolist() == Stream(examples, 60, seed).indices(batch).tolist()


def test_seeds_and_epochs_differ_and_lengths_are_alike() -> None:
    examples = Bare(tuple([3] * 20 + [9] * 20))
    one, other = ([Stream(examples, 27, seed).indices(i).tolist() for i in range(10)] for seed in (1, 2))
    assert one != other
    per_epoch = len(pack(np.arange(40), np.array(examples.sizes), 27))
    stream = Stream(examples, 27, 1)
    first, second = ([stream.indices(e * per_epoch + i).tolist() for i in range(per_epoch)] for e in (0, 1))
    assert sorted(map(sorted, first)) != sorted(map(sorted, second))
    mixed = [batch for batch in first if len({examples.sizes[i] for i in batch}) > 1]
    assert len(mixed) <= 1  # only where the short ones end and the long ones begin


def test_a_stream_of_nothing_is_refused_when_it_is_asked_and_not_before() -> None:
    stream = Stream(MaskedExamples(Ragged.of([]), 1, VOCABULARY, 64, 0.15), 100, 1)
    expected = (
        "training: expected text or pairs to make batches of, found none; "
        "give more data, or give the stages that need it a share of 0"
    )
    with pytest.raises(DataError, match=f"^{expected}$"):
        stream.indices(0)


def plain_pack(order: Indices, lengths: Indices, batch_tokens: int) -> list[list[int]]:
    """One example after another."""
    batches, start = [], 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end - start + 1) * lengths[order[end]] > batch_tokens:
            batches.append(order[start:end].tolist())
            start = end
    return batches


def plain_epoch(lengths: Indices, batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """All examples sorted at once."""
    random = np.random.default_rng((seed, epoch))
    order = np.lexsort((random.random(len(lengths)), lengths))
    batches = plain_pack(order, lengths, batch_tokens)
    return [batches[i] for i in random.permutation(len(batches))]


@given(sizes=st.lists(st.integers(0, 40), max_size=60), budget=st.integers(1, 120))
def test_pack_equals_a_walk_over_the_examples(sizes: list[int], budget: int) -> None:
    lengths = np.array(sizes, dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    assert as_lists(pack(order, lengths, budget)) == plain_pack(order, lengths, budget)


@given(sizes=LENGTHS.filter(bool), budget=st.integers(1, 120), seed=st.integers(0, 99))
def test_an_epoch_of_one_block_is_the_plain_one(sizes: list[int], budget: int, seed: int) -> None:
    stream = Stream(Bare(tuple(sizes)), budget, seed, block=len(sizes))
    expected = [batch for epoch in range(3) for batch in plain_epoch(np.array(sizes), budget, seed, epoch)]
    assert [stream.indices(number).tolist() for number in range(len(expected))] == expected


@given(
    sizes=LENGTHS.filter(bool), budget=st.integers(1, 120), seed=st.integers(0, 99), block=st.integers(1, 20),
    asked=st.lists(st.integers(0, 150), max_size=4),
)  # fmt: skip
def test_an_epoch_of_several_blocks_is_every_example_once(
    sizes: list[int], budget: int, seed: int, block: int, asked: list[int]
) -> None:
    stream, batches = Stream(Bare(tuple(sizes)), budget, seed, block), []
    for _ in range(2):
        seen: list[int] = []
        while len(seen) < len(sizes):
            indices = stream.indices(len(batches)).tolist()
            assert 0 < len(indices) <= block
            assert len(indices) == 1 or len(indices) * max(sizes[i] for i in indices) <= budget
            batches.append(indices)
            seen += indices
        assert sorted(seen) == list(range(len(sizes)))
    for number in asked:  # whatever was asked before: of the stream that is through, and of a new one
        expected = batches[number % len(batches)]
        assert stream.indices(number % len(batches)).tolist() == expected
        assert Stream(Bare(tuple(sizes)), budget, seed, block).indices(number % len(batches)).tolist() == expected


def test_blocks_are_drawn_anew_in_each_epoch_and_alike_in_size() -> None:
    stream = Stream(Bare((5,) * 103), 5, seed=1, block=25)  # batches of one example
    epochs = [[int(stream.indices(epoch * 103 + i)[0]) for i in range(103)] for epoch in range(3)]
    bounds = [place * 103 // 5 for place in range(6)]
    blocks = {frozenset(epoch[start:end]) for epoch in epochs for start, end in zip(bounds, bounds[1:])}
    assert len(blocks) == 15
    assert {len(block) for block in blocks} == {20, 21}
    other = Stream(Bare((5,) * 103), 5, seed=2, block=25)
    assert [int(other.indices(i)[0]) for i in range(103)] != epochs[0]


@settings(max_examples=50)
@given(size=st.integers(1, 5000), seed=st.integers(0, 99), cut=st.floats(0, 1))
def test_a_permutation_has_every_number_once_and_can_be_asked_for_any_part(size: int, seed: int, cut: float) -> None:
    order = Permutation.drawn(size, np.random.default_rng(seed))
    whole = order.at(0, size)
    assert sorted(whole.tolist()) == list(range(size))
    middle = round(cut * size)
    assert [*order.at(0, middle).tolist(), *order.at(middle, size).tolist()] == whole.tolist()


def test_a_permutation_of_more_than_a_chunk_has_every_number_once() -> None:
    size = 2**17 + 12_345
    assert np.array_equal(np.sort(Permutation.drawn(size, np.random.default_rng(0)).at(0, size)), np.arange(size))


def test_permutations_look_random() -> None:
    """Where a number goes is uniform over the seeds, and so is the place of its neighbour given its own."""
    orders = np.stack([Permutation.drawn(20, np.random.default_rng(seed)).at(0, 20) for seed in range(4000)])
    for place in (0, 7, 19):
        assert chisquare(np.bincount(orders[:, place], minlength=20)).pvalue > 1e-4
    steps = (orders[:, 1:] - orders[:, :-1]) % 20
    assert chisquare(np.bincount(steps.ravel(), minlength=20)[1:]).pvalue > 1e-4


class Endless:
    """Many examples, whose lengths are computed when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def lengths_at(self, indices: Indices) -> Indices:
        return 3 + indices % 61

    def tokens(self, indices: Indices) -> int:
        return int(self.lengths_at(indices).sum())

    def collate(self, indices: Indices, random: np.random.Generator) -> dict[str, Tensor]:
        return {"indices": torch.from_numpy(indices)}


def test_memory_does_not_grow_with_the_number_of_examples() -> None:
    peaks = []
    for count in (2**15, 2**34):
        stream = Stream(Endless(count), 1000, seed=1, block=2**12)
        tracemalloc.start()
        indices = stream.indices(100)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(indices) * (3 + indices % 61).max() <= 1000
    assert peaks[1] < 1.5 * peaks[0] < 3_000_000
