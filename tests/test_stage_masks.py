"""How many tokens of a stage are to be predicted: a share of the stage's own, or that of its data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from toy_stages import VOCABULARY, some_data, stage_data
from trelm.corpus.ragged import Ragged
from trelm.stages import EVERYTHING, START, Feed, Stage, StageData
from trelm.training.batches import IGNORED, PlannedBatches
from trelm.training.teaching import Teaching

MASKED: tuple[Feed, ...] = ("source-text", "target-text", "taught-text")
ALL: tuple[Feed, ...] = (*MASKED, "source-to-target", "target-to-source")
UPDATES = 60


def stage(feed: Feed, mask_rate: float | None = None) -> Stage:
    return Stage("one", EVERYTHING, START, ((feed, 1.0),), mask_rate=mask_rate)


def data(mask_rate: float = 0.15) -> StageData:
    """Sentences of thirty tokens, and a teacher that reads the pairs' source side."""
    made = stage_data([30] * 40, [30] * 40, mask_rate=mask_rate)
    ends = Ragged.of([row + 1 for row in made.source_of_target])
    return replace(made, teaching=Teaching(made.pair_source, made.source_of_target, ends, VOCABULARY))


def batches(given: StageData, of: Stage) -> PlannedBatches:
    return given.batches(of, updates=UPDATES, batch_tokens=320, seed=3)


def labels_and_tokens(found: PlannedBatches) -> tuple[int, int]:
    """Labels of all batches, and what could have been one: real tokens but the two around each sentence."""
    labels = tokens = 0
    for number in range(UPDATES):
        for part in found[number]["parts"]:
            labels += int((part["labels"] != IGNORED).sum())
            tokens += int(part["attention_mask"].sum()) - 2 * len(part["input_ids"])
    return labels, tokens


@pytest.mark.parametrize("feed", MASKED)
@pytest.mark.parametrize(("rate", "expected"), [(None, 0.15), (0.3, 0.3), (0.6, 0.6)])
def test_so_many_tokens_are_predicted(feed: Feed, rate: float | None, expected: float) -> None:
    """Within five standard deviations of the binomial."""
    labels, tokens = labels_and_tokens(batches(data(), stage(feed, rate)))
    assert tokens > 10_000
    assert abs(labels - expected * tokens) < 5 * np.sqrt(tokens * expected * (1 - expected))


@pytest.mark.parametrize("feed", ALL)
def test_a_rate_of_the_stage_is_as_one_of_the_data(feed: Feed) -> None:
    own, theirs = batches(data(0.15), stage(feed, 0.3)), batches(data(0.3), stage(feed))
    for number in range(5):
        for one, other in zip(own[number]["parts"], theirs[number]["parts"], strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("feed", ["source-to-target", "target-to-source"])
def test_cdlm_predicts_every_token_at_any_rate(feed: Feed) -> None:
    rates = [labels_and_tokens(batches(data(), stage(feed, rate)))[0] for rate in (None, 0.3)]
    assert rates[0] == rates[1] > 10_000


def test_the_data_of_other_stages_keep_their_own_rate() -> None:
    given = data()
    before, _ = labels_and_tokens(batches(given, stage("target-text")))
    assert labels_and_tokens(batches(given, stage("target-text", 0.3)))[0] > before
    assert labels_and_tokens(batches(given, stage("target-text")))[0] == before
    assert given.mask_rate == 0.15


@dataclass(frozen=True)
class Streamed:
    """Text that is read while training; it notes at which rate it is read."""

    read: list[float | None]
    mask_rate: float | None = None

    def masked_at(self, mask_rate: float) -> Streamed:
        return replace(self, mask_rate=mask_rate)

    def sequence(self, batch_tokens: int, seed: int) -> Any:
        self.read.append(self.mask_rate)
        return self


@pytest.mark.parametrize("rate", [None, 0.3])
def test_streamed_text_is_masked_at_the_stage_s_rate(rate: float | None) -> None:
    read: list[float | None] = []
    given = replace(some_data(), streams={"target-text": Streamed(read)})
    batches(given, stage("target-text", rate))
    assert read == [rate]
