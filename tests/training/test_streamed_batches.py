"""Batches of streamed text: all of every block, within the budget; batch `i` the same whatever was asked before."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import END, MASK, START, VOCABULARY

from trelm.corpus.ragged import Ragged
from trelm.corpus.streaming import StreamedLines
from trelm.training import streaming
from trelm.training.batches import IGNORED, MaskedExamples
from trelm.training.streaming import SequentialStream

BLOCK, BUDGET = 30, 64
FIRST = 10  # id of the digit 0


class NumberedLines:
    """Block `n` holds the numbers from 30 n on, or, at the end of an epoch of 100 lines, as many as are left."""

    def __init__(self) -> None:
        self.at = 0
        self.blocks_read: list[int] = []

    def next_block(self) -> list[str]:
        self.blocks_read.append(self.at)
        epoch, place = divmod(self.at, 4)
        self.at += 1
        return [
            f"{epoch:02}{number:03}" + "7" * (number % 5) for number in range(place * BLOCK, place * BLOCK + BLOCK)
        ][: 100 - place * BLOCK]

    def position(self) -> dict[str, Any]:
        return {"at": self.at}

    def restore(self, position: dict[str, Any]) -> None:
        self.at = position["at"]


def digits(lines: list[str]) -> MaskedExamples:
    ids = Ragged.of([[FIRST + int(digit) for digit in line] for line in lines])
    return MaskedExamples(ids, 1, VOCABULARY, max_length=16, mask_rate=0.15)


def stream(lines: Any = None, *, seed: int = 3, rank: int = 0) -> SequentialStream:
    return SequentialStream(lines or NumberedLines(), digits, batch_tokens=BUDGET, seed=seed, rank=rank)


def texts(batch: dict[str, torch.Tensor]) -> list[str]:
    """The lines of a batch, read back through its labels."""
    whole = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])
    rows = zip(whole.tolist(), batch["attention_mask"].sum(1).tolist())
    return ["".join(str(token - FIRST) for token in row[1 : length - 1]) for row, length in rows]


def same(left: tuple[dict[str, Any], int], right: tuple[dict[str, Any], int]) -> bool:
    return left[1] == right[1] and all(torch.equal(left[0][name], right[0][name]) for name in left[0] | right[0])


def epoch_length() -> int:
    lines, batches = NumberedLines(), 0
    for _ in range(4):
        lengths = sorted(len(line) + 2 for line in lines.next_block())
        while lengths:  # by hand: as many of the shortest as go into the budget with the longest of them
            taken = max(count for count in range(1, len(lengths) + 1) if count * lengths[count - 1] <= BUDGET)
            lengths, batches = lengths[taken:], batches + 1
    return batches


def test_an_epoch_of_batches_holds_every_line_once_within_the_budget() -> None:
    batches = stream()
    count = epoch_length()
    first = [batches.batch(i) for i in range(count)]
    numbers = Counter(text[:5] for batch, _ in first for text in texts(batch))
    assert numbers == Counter(f"00{number:03}" for number in range(100))
    assert all(batch["input_ids"].numel() <= BUDGET for batch, _ in first)
    assert [tokens for _, tokens in first] == [int(batch["attention_mask"].sum()) for batch, _ in first]
    assert {text[:2] for text in texts(batches.batch(count)[0])} == {"01"}


def test_batches_are_as_of_masked_examples() -> None:
    batch, _ = stream().batch(0)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape
    assert (batch["input_ids"][:, 0] == START).all()
    assert (batch["input_ids"] == END).sum() == len(batch["input_ids"])
    assert (batch["language"] == 1).all()
    inputs = torch.cat([stream().batch(i)[0]["input_ids"].flatten() for i in range(10)])
    assert (inputs == MASK).any()


def test_blocks_are_read_once_and_batches_do_not_come_by_length() -> None:
    lines = NumberedLines()
    batches = stream(lines)
    widths = [batches.batch(i)[0]["input_ids"].shape[1] for i in range(epoch_length())]
    assert lines.blocks_read == [0, 1, 2, 3]
    assert widths[:5] != sorted(widths[:5])


def test_seed_and_process_change_the_batches() -> None:
    assert same(stream().batch(0), stream().batch(0))
    assert not same(stream().batch(0), stream(seed=4).batch(0))
    assert not same(stream().batch(0), stream(rank=1).batch(0))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.sampled_from([2, 256]))
def test_a_batch_is_the_same_whatever_was_asked_for_before(numbers: list[int], remembered: int) -> None:
    streaming._REMEMBERED, before = remembered, streaming._REMEMBERED
    try:
        whole = stream()
        expected = [whole.batch(i) for i in range(41)]
        jumping = stream()
        for number in numbers:
            assert same(jumping.batch(number), expected[number])
            position = json.loads(json.dumps(jumping.position()))
            assert position["batch"] <= number
            resumed = stream()
            resumed.restore(position)
            assert same(resumed.batch(number), expected[number])
            assert same(resumed.batch(0), expected[0])
    finally:
        streaming._REMEMBERED = before


def test_a_resumed_stream_reads_only_from_its_block_on() -> None:
    whole = stream()
    for number in range(50):
        whole.batch(number)
    lines = NumberedLines()
    resumed = stream(lines)
    resumed.restore(whole.position())
    assert same(resumed.batch(50), whole.batch(50))
    assert len(lines.blocks_read) <= 2
    assert lines.blocks_read[0] > 0


def test_positions_that_are_remembered_are_bounded_and_the_newest_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_REMEMBERED", 4)
    batches = stream()
    for number in range(200):
        batches.batch(number)
        assert batches._block is not None
        assert batches.position()["batch"] == batches._block.first
        assert len(batches._starts) <= 4
    assert batches._starts[0] == (0, {"at": 0})


def test_two_processes_train_on_every_line_of_a_folder_once(tmp_path: Path) -> None:
    for shard in range(4):
        rows = [json.dumps({"text": f"{shard}{number:03}"}) + "\n" for number in range(25 + shard)]
        (tmp_path / f"train-{shard}.jsonl").write_text("".join(rows))

    def lines(rank: int) -> StreamedLines:
        return StreamedLines(
            [f"hf://{tmp_path}/train"],
            rank=rank, world=2, seed=1, block_lines=20, min_characters=2, max_characters=100,
        )  # fmt: skip

    seen: Counter[str] = Counter()
    for rank in range(2):
        own, batches = lines(rank), stream(lines(rank), rank=rank)
        blocks = []
        while own.position()["epoch"] == 0:
            blocks.append(own.next_block())
        wanted = sum(map(len, blocks[:-1]))  # the last is of the next epoch
        number = 0
        while wanted > 0:
            batch, _ = batches.batch(number)
            seen.update(texts(batch))
            wanted, number = wanted - len(batch["labels"]), number + 1
        assert wanted == 0
        again = stream(lines(rank), rank=rank)
        again.restore(json.loads(json.dumps(batches.position())))
        assert same(again.batch(number), batches.batch(number))
    assert seen == Counter(f"{shard}{number:03}" for shard in range(4) for number in range(25 + shard))
    assert np.unique(list(seen.values())).tolist() == [1]
