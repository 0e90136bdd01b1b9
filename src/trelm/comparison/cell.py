"""One cell: an arm with a seed, what it trains on, and the model that it starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from trelm.comparison.arms import Arm, CellStage
from trelm.comparison.preparation import SOURCE_TOKENS, needed_steps
from trelm.config import Config
from trelm.corpus.ragged import Ragged
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import scratch_model, special_ids, transferred_model, trelm_config
from trelm.stages import StageData, Unit, flops_per_update, seconds_per_update
from trelm.steps.context import TOKENS, Context, vocabulary_of
from trelm.steps.initialisation import initialise
from trelm.steps.streams import text_streams
from trelm.steps.training import shared_settings, stage_data
from trelm.training.trainer import LoopSettings

NOTHING = Ragged(np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))


@dataclass(frozen=True)
class Cell:
    """An arm with a seed.

    Attributes:
        name: of the arm. context: the arm's configuration with this seed; its run folder is the cell's, prepared steps
            lie elsewhere. mask_seed: of the masks that every cell is scored on.
    """

    name: str
    arm: Arm
    context: Context
    mask_seed: int

    @property
    def config(self) -> Config:
        """The arm's configuration with the cell's seed."""
        return self.context.config

    @cached_property
    def program(self) -> tuple[CellStage, ...]:
        """The stages that train."""
        return self.arm.program(self.config)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What the arm's model reads with."""
        return self.context.pretrained.tokenizer if self.arm.start == "source" else self.context.tokenizer

    @cached_property
    def data(self) -> StageData:
        """What the stages draw their batches from."""
        if self.arm.reads_pairs:
            data = stage_data(self.context)
            return data if self.arm.orders else _without_ordering(data)
        folder = self.context.folder(SOURCE_TOKENS if self.arm.start == "source" else TOKENS)
        text = Ragged.load(folder, "target")  # with the pairs' target side: the corpus has it among the text
        training = self.config.training
        return StageData(
            *(NOTHING, text, NOTHING, NOTHING, NOTHING, NOTHING),
            vocabulary=vocabulary_of(self.tokenizer),
            max_length=training.max_length,
            mask_rate=training.mask_rate,
            streams=text_streams(self.context, self.tokenizer),
        )

    def settings(self, number: int) -> LoopSettings:
        """How stage `number` trains."""
        section = self.program[number].settings
        return shared_settings(
            self.context,
            learning_rate=section.learning_rate,
            warmup=section.warmup,
            schedule=section.schedule,
            seed=self.config.seed * 100 + number,
        )


def _without_ordering(data: StageData) -> StageData:
    """Every output position linked to the input position of the same number, where there is one."""

    def identity(outputs: Ragged, inputs: Ragged) -> Ragged:
        starts = np.repeat(outputs.offsets[:-1], outputs.lengths())
        place = np.arange(len(outputs.values)) - starts
        longest = np.repeat(inputs.lengths(), outputs.lengths())
        return Ragged(np.where(place < longest, place, -1).astype(np.int32), outputs.offsets)

    return replace(
        data,
        source_of_target=identity(data.pair_target, data.pair_source),
        target_of_source=identity(data.pair_source, data.pair_target),
    )


def start_model(cell: Cell) -> TrelmForMaskedLM:
    """The arm's model before training."""
    context, config, arm = cell.context, cell.config, cell.arm
    source, seed, tokenizer = context.source, config.seed, cell.tokenizer
    training = config.training
    settings = trelm_config(
        source.config,
        vocabulary_size=len(source.table) if arm.start == "source" else len(tokenizer),
        special_ids=special_ids(tokenizer),
        languages=context.languages,
        hidden_dropout=training.hidden_dropout,
        attention_dropout=training.attention_dropout,
        has_tri_layer=arm.has_tri_layer,
    )
    if not arm.has_tri_layer and not arm.reads_pairs:
        settings.plainness = 1.0  # the source's own class: no positions in the middle
    if arm.start == "random":
        return scratch_model(settings, seed)
    if arm.start == "source":
        return transferred_model(
            settings, source, source.table, seed, output=source.output_table, bias=source.output_bias
        )
    made = initialise(context)
    outputs, bias = (None if rows is None else torch.from_numpy(rows) for rows in (made.outputs, made.bias))
    return transferred_model(settings, source, torch.from_numpy(made.words), seed, output=outputs, bias=bias)


def preparation_seconds(cell: Cell) -> float:
    """What the arm's own preparation took: not what every arm needs, the corpus and a vocabulary."""
    figures = [cell.context.figures(name) for name in needed_steps(cell.arm) if name in cell.arm.prepares]
    # a head that was fitted in an earlier run, or in several goes, took longer than its step here
    return sum(max(float(step["seconds"]), float(step.get("fit_seconds", 0.0))) for step in figures)


def budget_of(cell: Cell, model: TrelmForMaskedLM, spent: float) -> tuple[Unit, float, dict[str, float]]:
    """The unit of the budget, its amount for training, and what an update of each stage costs in it.

    Args:
        spent: seconds of the arm's own preparation.
    """
    budget = cell.config.budget
    if budget.updates is not None:
        return "updates", float(budget.updates), {part.stage.name: 1.0 for part in cell.program}
    if budget.tokens is not None:
        return "tokens", float(budget.tokens), {part.stage.name: mean_tokens(cell, part) for part in cell.program}
    if budget.flops is not None:
        return "flops", budget.flops, mean_flops(cell, model)
    return "seconds", 60 * float(budget.minutes or 0) - spent, mean_seconds(cell, model)


def mean_tokens(cell: Cell, part: CellStage) -> float:
    """Tokens of an update of a stage, padding not counted."""
    batch_tokens = cell.config.training.batch_tokens
    return cell.data.batches(part.stage, updates=0, batch_tokens=batch_tokens, seed=1).mean_tokens()


def mean_flops(cell: Cell, model: TrelmForMaskedLM) -> dict[str, float]:
    """Floating-point operations of an update of each stage."""
    batch_tokens = cell.config.training.batch_tokens
    return {
        part.stage.name: flops_per_update(model, part.stage, cell.data, batch_tokens=batch_tokens, seed=1)
        for part in cell.program
    }


def mean_seconds(cell: Cell, model: TrelmForMaskedLM) -> dict[str, float]:
    """Seconds of an update of each stage, measured here and now."""
    batch_tokens = cell.config.training.batch_tokens
    return {
        part.stage.name: seconds_per_update(
            model, part.stage, cell.data, cell.settings(number), batch_tokens=batch_tokens
        )
        for number, part in enumerate(cell.program)
    }
