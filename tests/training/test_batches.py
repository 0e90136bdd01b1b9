"""Batches: nothing lost, nothing twice, budgets kept, masks and orderings by hand and by brute force."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from toy_training import END, MASK, PADDING, SIZE, START, VOCABULARY, counting_text

from trelm.corpus.ragged import Ragged
from trelm.training.batches import (
    IGNORED,
    CrossLingualExamples,
    MaskedExamples,
    PlannedBatches,
    _ordinary,
    mask_tokens,
    orderings,
    pad_with_specials,
)
from trelm.training.order import Indices


def masked(texts: Ragged, *, max_length: int = 64, rate: float = 0.15, language: int = 1) -> MaskedExamples:
    return MaskedExamples(texts, language, VOCABULARY, max_length, rate)


def every(examples: MaskedExamples | CrossLingualExamples) -> Indices:
    return np.arange(len(examples))


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_special_tokens_padding_and_cut_by_hand() -> None:
    sequences = [np.array(tokens, dtype=np.int32) for tokens in ([10, 11], [20, 21, 22, 23], [])]
    ids, mask = pad_with_specials(sequences, VOCABULARY, 5)
    assert ids.tolist() == [
        [START, 10, 11, END, PADDING],
        [START, 20, 21, 22, END],
        [START, END, PADDING, PADDING, PADDING],
    ]
    assert mask.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]


def large_batch() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """What was, what the model is given, and its labels: 600 sequences of 5 to 100 tokens, cut to 64."""
    random = generator(3)
    texts = Ragged.of([random.integers(1, SIZE, size=length) for length in random.integers(5, 101, size=600)])
    batch = masked(texts).collate(np.arange(600), generator(4))
    before, mask = pad_with_specials([texts[i] for i in range(600)], VOCABULARY, 64)
    assert batch["attention_mask"].tolist() == mask.tolist()
    return before, batch["input_ids"].numpy(), batch["labels"].numpy()


def is_near(successes: int, trials: int, rate: float) -> bool:
    """Within five standard deviations of a binomial's mean."""
    return abs(successes - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate))


def test_fifteen_percent_are_chosen_and_split_80_10_10() -> None:
    before, after, labels = large_batch()
    special = np.isin(before, VOCABULARY.special)
    chosen = labels != IGNORED
    assert special.sum() > before.size / 20
    assert not (chosen & special).any()
    assert is_near(int(chosen.sum()), int((~special).sum()), 0.15)
    count = int(chosen.sum())
    by_mask, kept = chosen & (after == MASK), chosen & (after == before)
    other = chosen & ~by_mask & ~kept
    # A random token is the original one once in the number of those that are not special; never the mask token.
    ordinary = SIZE - len(VOCABULARY.special)
    assert is_near(int(by_mask.sum()), count, 0.8)
    assert is_near(int(kept.sum()), count, 0.1 + 0.1 / ordinary)
    assert is_near(int(other.sum()), count, 0.1 * (ordinary - 1) / ordinary)
    assert set(after[other].tolist()) == set(range(5, SIZE)), "random tokens are all but the special ones"


@given(size=st.integers(2, 40), special=st.lists(st.integers(0, 39), max_size=12), seed=st.integers(0, 99))
def test_random_tokens_are_an_increasing_count_of_those_that_are_not_special(
    size: int, special: list[int], seed: int
) -> None:
    """The generator's k-th number is the k-th ordinary id, wherever the special ones stand, also named twice."""
    inside = tuple(number for number in special if number < size)
    ordinary = [number for number in range(size) if number not in inside]
    assume(ordinary)
    vocabulary = replace(VOCABULARY, size=size, special=inside)
    drawn = generator(seed).integers(len(ordinary), size=200)
    assert _ordinary(vocabulary, 200, generator(seed)).tolist() == [ordinary[rank] for rank in drawn]


def test_random_tokens_are_uniform_over_those_that_are_not_special() -> None:
    """As in a vocabulary like MPNet's, whose special tokens stand first, in the middle and last."""
    special = (0, 1, 2, 17, 18, SIZE - 1)
    vocabulary = replace(VOCABULARY, mask=SIZE - 1, special=special)
    before = np.full((200, 500), 30)
    after = before.copy()
    labels = mask_tokens(after, np.ones_like(before), vocabulary, 1.0, generator(5))
    assert (labels == 30).all()
    counts = np.bincount(after[(after != SIZE - 1) & (after != 30)], minlength=SIZE)
    others = np.setdiff1d(np.arange(SIZE), [*special, 30])
    assert counts.sum() == counts[others].sum()  # never a special one
    assert chisquare(counts[others]).pvalue > 1e-4
    share = len(others) / (SIZE - len(special))
    assert is_near(int(counts.sum()), before.size, 0.1 * share)


def test_labels_are_the_original_tokens_where_chosen_and_nothing_else_changes() -> None:
    before, after, labels = large_batch()
    chosen = labels != IGNORED
    assert (labels[chosen] == before[chosen]).all()
    assert (after[~chosen] == before[~chosen]).all()


@settings(max_examples=50)
@given(
    texts=st.lists(st.lists(st.integers(0, SIZE - 1), max_size=6), min_size=1, max_size=4),
    rate=st.sampled_from([0.0, 0.15, 1.0]),
    seed=st.integers(0, 999),
)
def test_there_is_a_label_and_never_on_padding_or_a_special_token(
    texts: list[list[int]], rate: float, seed: int
) -> None:
    examples = masked(Ragged.of(texts), rate=rate)
    batch = examples.collate(every(examples), generator(seed))
    before, _ = pad_with_specials([np.array(text, dtype=np.int32) for text in texts], VOCABULARY, 64)
    chosen = batch["labels"].numpy() != IGNORED
    plain = sum(token not in VOCABULARY.special for text in texts for token in text)
    assert not chosen[batch["attention_mask"].numpy() == 0].any()
    if plain == 0:  # there is nothing else to choose
        assert chosen.sum() == 1
    else:
        assert not chosen[np.isin(before, VOCABULARY.special)].any()
        assert chosen.sum() >= 1
        assert chosen.sum() == {0.0: 1, 1.0: plain}.get(rate, chosen.sum())


def test_the_mask_follows_the_generator_alone() -> None:
    examples = masked(counting_text(30))
    one, again, other = (examples.collate(every(examples), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one["input_ids"], again["input_ids"])
    assert torch.equal(one["labels"], again["labels"])
    assert not torch.equal(one["labels"], other["labels"])


def test_masked_examples_are_cut_and_counted() -> None:
    examples = masked(Ragged.of([range(5, 9), range(5, 25), []]), max_length=10, language=0)
    assert examples.lengths_at(every(examples)).tolist() == [6, 10, 2]
    assert examples.tokens(np.array([0, 1, 2])) == 18
    assert examples.tokens(np.array([1])) == 10
    batch = examples.collate(np.array([1, 2]), generator())
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 10)
    assert batch["attention_mask"].sum(1).tolist() == [10, 2]
    assert batch["language"].tolist() == [0, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def pairs(max_length: int = 6) -> CrossLingualExamples:
    """A pair that fits, with a token of y that has no link, and a pair that is cut on both sides."""
    return CrossLingualExamples(
        inputs=Ragged.of([[10, 11, 12], [30, 31, 32, 33, 34, 35]]),
        outputs=Ragged.of([[20, 21], [40, 41, 42, 43, 44]]),
        links=Ragged.of([[2, -1], [0, 5, 3, 4, 1]]),
        languages=(1, 0),
        vocabulary=VOCABULARY,
        max_length=max_length,
    )


def test_cross_lingual_batch_by_hand() -> None:
    batch = pairs().collate(np.array([0, 1]), generator())
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[START, 10, 11, 12, END, PADDING], [START, 30, 31, 32, 33, END]],
        "attention_mask": [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]],
        # Special tokens go to their like; 5 and 4 are beyond the cut of x, the last link is beyond that of y.
        "ordering": [[0, 3, -1, 4, -1, -1], [0, 1, -1, 4, -1, 5]],
        "output_mask": [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]],
        "labels": [[START, 20, 21, END, IGNORED, IGNORED], [START, 40, 41, 42, 43, END]],
        "language": [1, 1],
        "output_language": [0, 0],
    }


def test_labels_on_a_share_of_the_positions() -> None:
    whole = pairs().collate(np.array([0, 1]), generator())
    counts = []
    for seed in range(400):
        batch = replace(pairs(), label_rate=0.3).collate(np.array([0, 1]), generator(seed))
        drawn = batch["labels"] != IGNORED
        assert drawn.any()  # a batch without a label would have no loss
        assert torch.equal(batch["labels"][drawn], whole["labels"][drawn])
        counts.append(int(drawn.sum()))
    assert all(torch.equal(batch[name], whole[name]) for name in whole if name != "labels")
    # 10 real positions: Binomial(10, .3), but all ten where none is drawn, which happens with .7^10.
    expected = 3 + 10 * 0.7**10
    assert abs(float(np.mean(counts)) - expected) < 4 * 1.7 / 400**0.5


def test_cross_lingual_counts_by_hand() -> None:
    # Real tokens without special ones: 3 and 4 in x, 2 and 4 in y; half of 13, and 2 special ones a pair.
    assert pairs().lengths_at(np.arange(2)).tolist() == [5, 6]
    assert pairs().tokens(np.array([0, 1])) == 6 + 4
    assert pairs(max_length=20).lengths_at(np.arange(2)).tolist() == [5, 8]
    assert pairs(max_length=20).tokens(np.array([1])) == (6 + 5) // 2 + 2


@st.composite
def linked_pairs(draw: Any) -> list[tuple[list[int], list[int], list[int]]]:
    """x, y, and for every token of y a position in x or -1."""
    result = []
    for _ in range(draw(st.integers(1, 4))):
        x = draw(st.lists(st.integers(5, SIZE - 1), min_size=1, max_size=9))
        y = draw(st.lists(st.integers(5, SIZE - 1), min_size=1, max_size=9))
        result.append((x, y, [draw(st.integers(-1, len(x) - 1)) for _ in y]))
    return result


@given(examples=linked_pairs(), max_length=st.integers(3, 12))
def test_orderings_equal_brute_force(examples: list[tuple[list[int], list[int], list[int]]], max_length: int) -> None:
    limit = max_length - 2
    width = max(min(len(y), limit) for _, y, _ in examples) + 2
    expected = []
    for x, y, links in examples:
        inside = [link + 1 if 0 <= link < min(len(x), limit) else -1 for link in links[: min(len(y), limit)]]
        row = [0, *inside, min(len(x), limit) + 1]
        expected.append(row + [-1] * (width - len(row)))
    _, mask = pad_with_specials([np.array(x, dtype=np.int32) for x, _, _ in examples], VOCABULARY, max_length)
    _, output_mask = pad_with_specials([np.array(y, dtype=np.int32) for _, y, _ in examples], VOCABULARY, max_length)
    arrays = [np.array(links, dtype=np.int32) for _, _, links in examples]
    assert orderings(arrays, mask.sum(1), output_mask).tolist() == expected


def planned(updates: int = 12, seed: int = 1) -> PlannedBatches:
    streams = [(masked(counting_text(300, 1), language=0), 1.0), (masked(counting_text(300, 2)), 3.0)]
    return PlannedBatches(streams, updates=updates, batch_tokens=400, seed=seed)


def same_item(one: dict[str, Any], other: dict[str, Any]) -> bool:
    parts = zip(one["parts"], other["parts"], strict=True)
    tensors = all(torch.equal(a[name], b[name]) for a, b in parts for name in a.keys() | b.keys())
    return tensors and one["weights"] == other["weights"] and one["tokens"] == other["tokens"]


def test_a_planned_batch_is_the_same_whatever_was_asked_before() -> None:
    batches = planned()
    for index in (7, 0, 11, 7, 3):
        assert same_item(batches[index], planned()[index])
    assert len(batches) == 12
    assert not same_item(batches[7], batches[8])
    assert not same_item(batches[7], planned(seed=2)[7])


def test_planned_batches_share_the_token_budget() -> None:
    batches = planned()
    for index in range(12):
        item = batches[index]
        assert item["weights"] == [0.25, 0.75]
        source, target = item["parts"]
        assert source["input_ids"].numel() <= 100
        assert target["input_ids"].numel() <= 300
        assert source["language"].unique().tolist() == [0]
        assert target["language"].unique().tolist() == [1]
        assert item["tokens"] == sum(int(part["attention_mask"].sum()) for part in item["parts"])
    # A budget that is used: all batches but the last of an epoch are full up to padding and one more example.
    assert batches.mean_tokens() > 0.8 * 400


def test_mean_tokens_are_those_of_the_first_updates() -> None:
    batches = planned(updates=64)
    assert batches.mean_tokens() == sum(batches[i]["tokens"] for i in range(64)) / 64
    assert batches.mean_tokens(sample=3) == sum(batches[i]["tokens"] for i in range(3)) / 3
    assert planned(updates=0).mean_tokens() == batches.mean_tokens()
