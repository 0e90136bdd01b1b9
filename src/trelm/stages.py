"""The stages as data: what trains, on what, starting from what, for how long (METHOD section 5)."""

from __future__ import annotations

import copy
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from trelm import processes
from trelm.corpus.ragged import Ragged
from trelm.cost import LayerGroup, split_budget, training_flops
from trelm.errors import BudgetError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import PARTS, Part, freeze_all_but, part_of_parameters
from trelm.model.shape import embedding_width, layer_shape
from trelm.training.account import AfterUpdate, OnNote, OnUpdate
from trelm.training.batches import (
    IGNORED,
    CrossLingualExamples,
    MaskedExamples,
    PlannedBatches,
    SequentialExamples,
    Vocabulary,
)
from trelm.training.order import Examples
from trelm.training.teaching import READ, TaughtExamples, Teaching
from trelm.training.trainer import LoopSettings, Trained, train

SOURCE, TARGET = 0, 1
Feed = Literal["source-text", "target-text", "source-to-target", "target-to-source", "taught-text"]
CROSS_LINGUAL: tuple[Feed, ...] = ("source-to-target", "target-to-source")
Unit = Literal["updates", "tokens", "seconds", "flops"]


@dataclass(frozen=True)
class Stage:
    """One training stage.

    Attributes:
        name: what it trains. trains: the parts whose parameters move. starts_from: `model` (the transferred one before
            training), `random` (random weights), or the name of an earlier stage. feeds: kinds of examples and their
            share of each batch. anneals: whether it takes away what a plain model cannot hold.
        mask_rate: share of the tokens of text that are to be predicted; None: as the data say.
    """

    name: str
    trains: frozenset[Part]
    starts_from: str
    feeds: tuple[tuple[Feed, float], ...]
    anneals: bool = False
    mask_rate: float | None = None


COMMONALITY, TRANSFER_JOINT = "commonality", "transfer-joint"
TRANSFER_UPPER, TRANSFER_LOWER, COMBINATION = "transfer-upper", "transfer-lower", "combination"
LANGUAGE_SPECIFIC, PLAIN, SCRATCH = "language-specific", "plain", "scratch"
START, RANDOM = "model", "random"

EVERYTHING: frozenset[Part] = frozenset(PARTS)
Feeds = tuple[tuple[Feed, float], ...]
TARGET_TEXT: Feeds = (("target-text", 1.0),)
HALVES = {
    TRANSFER_UPPER: Stage(
        TRANSFER_UPPER, frozenset({"upper", "shared"}), START, (("source-to-target", 0.5), ("target-text", 0.5))
    ),
    TRANSFER_LOWER: Stage(
        TRANSFER_LOWER, frozenset({"lower", "shared"}), START, (("target-to-source", 0.5), ("target-text", 0.5))
    ),
}


PUBLISHED = (COMMONALITY, TRANSFER_UPPER, TRANSFER_LOWER, LANGUAGE_SPECIFIC)


def transfer_stages(
    source_share: float, wanted: Collection[str] = PUBLISHED, joint: Feeds = TARGET_TEXT
) -> tuple[Stage, ...]:
    """The stages of METHOD section 5 that train, those of `wanted`, each from where the one before it ended.

    The two that train one half each start from the same model; what follows both starts from their combination.

    Args:
        source_share: part of the commonality stage's batches that is source-language text. wanted: names of stages.
        joint: what the stage that trains both halves together reads.
    """
    both: Feeds = (("source-text", source_share), ("target-text", 1 - source_share))
    single = {
        COMMONALITY: Stage(COMMONALITY, frozenset({"shared"}), START, _without_nothing(both)),
        TRANSFER_JOINT: Stage(TRANSFER_JOINT, EVERYTHING, START, _without_nothing(joint)),
    }
    stages, before = [], START
    for name in (name for name in single if name in wanted):
        stages.append(replace(single[name], starts_from=before))
        before = name
    halves = [replace(stage, starts_from=before) for name, stage in HALVES.items() if name in wanted]
    stages += halves
    before = COMBINATION if len(halves) == len(HALVES) else halves[0].name if halves else before
    for stage in (stage for stage in (SPECIFIC_STAGE, PLAIN_STAGE) if stage.name in wanted):
        stages.append(replace(stage, starts_from=before))
        before = stage.name
    return tuple(stages)


def _without_nothing(feeds: Feeds) -> Feeds:
    return tuple(feed for feed in feeds if feed[1] > 0)


def is_taught(stage: Stage) -> bool:
    """Whether a teacher is needed."""
    return any(feed == "taught-text" for feed, _ in stage.feeds)


def combines(stages: Iterable[Stage]) -> bool:
    """Whether the halves of two stages are to be combined."""
    return any(stage.starts_from == COMBINATION for stage in stages)


SPECIFIC_STAGE = Stage(LANGUAGE_SPECIFIC, EVERYTHING, START, TARGET_TEXT)
PLAIN_STAGE = Stage(PLAIN, EVERYTHING, LANGUAGE_SPECIFIC, TARGET_TEXT, anneals=True)
SCRATCH_STAGE = Stage(SCRATCH, EVERYTHING, RANDOM, TARGET_TEXT)

ALIKE = {TRANSFER_LOWER: TRANSFER_UPPER, PLAIN: LANGUAGE_SPECIFIC}
"""Stages that do the same work as another one, which is measured for both where a run has both."""

WARM_UPDATES, MEASURED_UPDATES = 1, 8  # of a stage, when its speed is measured in a run, which pays for it

ANNEALED = 0.5
"""Part of the plain stage over which what a plain model cannot hold goes to zero; the rest trains without it."""


@dataclass(frozen=True)
class StageData:
    """Token ids without special tokens, and what makes batches of them.

    Attributes:
        source, target: text of each language. pair_source, pair_target: the parallel text.
        source_of_target, target_of_source: its word links, one for each position of the named-first language's partner:
            for every target position a source position or -1, and the other way round.
        streams: text that is read while training, by the feeds that it stands for.
        teaching: what a teacher reads of the pairs, where there is one. label_rate: share of the positions that CdLM
            predicts.
    """

    source: Ragged
    target: Ragged
    pair_source: Ragged
    pair_target: Ragged
    source_of_target: Ragged
    target_of_source: Ragged
    vocabulary: Vocabulary
    max_length: int
    mask_rate: float
    streams: Mapping[Feed, SequentialExamples] = field(default_factory=dict)
    teaching: Teaching | None = None
    label_rate: float = 1.0

    def examples(self, feed: Feed) -> Examples | SequentialExamples:
        """The examples of one kind."""
        if feed in self.streams:
            return self.streams[feed]
        if feed == "source-text":
            return MaskedExamples(self.source, SOURCE, self.vocabulary, self.max_length, self.mask_rate)
        if feed == "target-text":
            return MaskedExamples(self.target, TARGET, self.vocabulary, self.max_length, self.mask_rate)
        if feed == "taught-text":
            return self._taught_text()
        pairs = (self.pair_source, self.pair_target, self.source_of_target)
        languages = (SOURCE, TARGET)
        if feed == "target-to-source":
            pairs = (self.pair_target, self.pair_source, self.target_of_source)
            languages = (TARGET, SOURCE)
        return CrossLingualExamples(*pairs, languages, self.vocabulary, self.max_length, self.label_rate)

    def _taught_text(self) -> TaughtExamples:
        if self.teaching is None:
            raise ValueError("expected links to a teacher's tokens, found none: the data was made without a teacher")
        text = MaskedExamples(self.pair_target, TARGET, self.vocabulary, self.max_length, self.mask_rate)
        return TaughtExamples(text, self.teaching)

    def _masked_at(self, rate: float) -> StageData:
        streams = {feed: text.masked_at(rate) for feed, text in self.streams.items()}
        return replace(self, mask_rate=rate, streams=streams)

    def batches(self, stage: Stage, *, updates: int, batch_tokens: int, seed: int) -> PlannedBatches:
        """The batches of a stage."""
        data = self if stage.mask_rate is None else self._masked_at(stage.mask_rate)
        streams = [(data.examples(feed), share) for feed, share in stage.feeds]
        return PlannedBatches(streams, updates=updates, batch_tokens=batch_tokens, seed=seed)


DIGITS: dict[Unit, str] = {"updates": "0f", "tokens": "0f", "seconds": "0f", "flops": "2e"}


def plan_updates(
    amount: float,
    unit: Unit,
    shares: Mapping[str, float],
    per_update: Mapping[str, float],
) -> dict[str, int]:
    """Updates of each stage: the budget split by the shares, in `unit`, at the measured cost of an update.

    Args:
        per_update: tokens, seconds or FLOPs of one update of each stage (1 where the unit is updates).

    Raises:
        BudgetError: a stage with a share would not get a single update.
    """
    parts = split_budget(amount, shares)
    updates = {name: int(part / per_update[name] + 1e-9) for name, part in parts.items()}
    starved = [name for name in updates if shares[name] > 0 and updates[name] == 0]
    if starved:
        whole = sum(shares.values())
        least = max(per_update[name] * whole / shares[name] for name in starved)
        raise BudgetError(
            f"budget: {amount:.{DIGITS[unit]}} {unit} for training are too few: stage '{starved[0]}' would get no "
            f"update; give training at least {math.ceil(least):.{DIGITS[unit]}} {unit}"
        )
    return updates


def run_stage(
    model: TrelmForMaskedLM,
    stage: Stage,
    batches: PlannedBatches,
    settings: LoopSettings,
    folder: Path,
    on_update: OnUpdate | None = None,
    after_update: AfterUpdate | None = None,
    on_note: OnNote | None = None,
) -> Trained:
    """Train `model` in place, only the parts that the stage trains; resumes from a checkpoint in `folder`.

    Args:
        on_update, after_update, on_note: as `trelm.training.trainer.train` takes them.
    """
    freeze_all_but(model, stage.trains)
    model.config.sparse_prediction = True
    if settings.body_learning_rate is not None:
        body = frozenset(name for name, part in part_of_parameters(model).items() if part != "shared")
        settings = replace(settings, body=body)
    plainness = model.config.plainness

    def before_update(done: int, total: int) -> None:
        if stage.anneals:
            model.config.plainness = max(plainness, min(1.0, (done + 1) / (ANNEALED * total)))
        if settings.teacher is not None:
            settings.teacher.fall(done, total)

    try:
        if len(batches) == 0:
            return Trained(0.0, 0, 0, {"updates": [], "tokens": [], "seconds": [], "loss": []})
        trained = train(model, batches, settings, folder, on_update, before_update, after_update, on_note)
        if stage.anneals:
            model.config.plainness = 1.0  # also where a stage of a single update was resumed after it
        return trained
    finally:
        model.config.sparse_prediction = False
        freeze_all_but(model, PARTS)


def seconds_per_update(
    model: TrelmForMaskedLM,
    stage: Stage,
    data: StageData,
    settings: LoopSettings,
    *,
    batch_tokens: int,
    warm: int = WARM_UPDATES,
    measured: int = MEASURED_UPDATES,
    on_update: Callable[[], None] | None = None,
) -> float:
    """Mean seconds of an update of the stage on this machine, from real batches on a copy of the model."""
    batches = data.batches(stage, updates=warm + measured, batch_tokens=batch_tokens, seed=settings.seed)
    times: list[float] = []

    def stamp(*_: Any) -> None:
        if settings.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
        if on_update is not None:
            on_update()

    with tempfile.TemporaryDirectory(prefix="trelm-") as folder:
        quiet = replace(settings, checkpoint_minutes=1e9)
        run_stage(copy.deepcopy(model), stage, batches, quiet, Path(folder), stamp)
    return (times[-1] - times[warm - 1]) / measured


def stage_flops(model: TrelmForMaskedLM, stage: Stage, batches: PlannedBatches, sample: int = 16) -> float:
    """Floating-point operations of the whole stage, from the shapes of `sample` of its batches."""
    if len(batches) == 0:
        return 0.0
    items = [batches[int(number)] for number in batches.sample(sample)]
    own = processes.count()  # processes that each have such a part
    one = [
        sum(_part_flops(model, stage, part) * (own if is_own else 1) for part, is_own in zip(i["parts"], i["is_own"]))
        for i in items
    ]
    return float(np.mean(one)) * len(batches)


def flops_per_update(model: TrelmForMaskedLM, stage: Stage, data: StageData, *, batch_tokens: int, seed: int) -> float:
    """Mean floating-point operations of an update of the stage."""
    sample = 16
    return stage_flops(model, stage, data.batches(stage, updates=sample, batch_tokens=batch_tokens, seed=seed)) / sample


def _part_flops(model: TrelmForMaskedLM, stage: Stage, part: dict[str, Any]) -> float:
    source = model.config.source
    below, body = model.config.tri_position, source.num_hidden_layers
    rows, read = part["input_ids"].shape
    spoken = part["labels"].shape[1]
    taught = _teacher_flops(model, part[READ]) if READ in part else 0.0
    groups = (
        LayerGroup(below, "lower" in stage.trains, rows * read, read),
        LayerGroup(int(model.config.has_tri_layer), "shared" in stage.trains, rows * spoken, spoken),
        LayerGroup(body - below, "upper" in stage.trains, rows * spoken, spoken),
    )
    return taught + training_flops(
        groups,
        layer_shape(model.trelm.lower_layers[0], source),
        vocabulary=source.vocab_size,
        labelled=int((part["labels"] != IGNORED).sum()),
        embedding=embedding_width(source),
    )


def _teacher_flops(model: TrelmForMaskedLM, read: torch.Tensor) -> float:
    """Of the forward pass of the source encoder over what it reads, (B, S)."""
    source = model.config.source
    group = LayerGroup(source.num_hidden_layers, False, read.numel(), read.shape[1])
    shape = layer_shape(model.trelm.lower_layers[0], source)
    return training_flops((group,), shape, vocabulary=0, labelled=0, embeddings_train=False, head_trains=False)
