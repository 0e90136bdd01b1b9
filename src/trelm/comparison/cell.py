"""One cell: an arm with a seed, what it trains on, and the model that it starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from trelm.comparison.arms import Arm, CellStage, reorders
from trelm.comparison.inputs import CellInputs, tokenizer_of
from trelm.config import Config
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.source import scratch_model, special_ids, transferred_model, trelm_config
from trelm.stages import StageData, Unit, flops_per_update, seconds_per_update
from trelm.steps.context import Context
from trelm.steps.training import settings_of
from trelm.training.trainer import LoopSettings


@dataclass(frozen=True)
class Cell:
    """An arm with a seed.

    Attributes:
        name: of the arm. context: the arm's configuration with this seed, and a run folder that is the cell's own.
            inputs: what else it reads. mask_seed: of the masks that every cell is scored on.
    """

    name: str
    arm: Arm
    context: Context
    inputs: CellInputs
    mask_seed: int

    @property
    def config(self) -> Config:
        """The arm's configuration with the cell's seed."""
        return self.context.config

    @cached_property
    def program(self) -> tuple[CellStage, ...]:
        """The stages that train."""
        parts = self.arm.program(self.config)
        return tuple(replace(p, stage=replace(p.stage, mask_rate=p.settings.mask_rate)) for p in parts)

    @property
    def has_tri_layer(self) -> bool:
        """Whether the arm's model has a TRILayer, where the configuration has one."""
        return self.arm.has_tri_layer and self.config.model.tri_layer

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What the arm's model reads with."""
        return tokenizer_of(self.arm, self.context)

    @property
    def data(self) -> StageData:
        """What the stages draw their batches from."""
        return self.inputs.data

    def settings(self, number: int) -> LoopSettings:
        """How stage `number` trains."""
        part = self.program[number]
        return settings_of(self.context, part.stage, part.settings, self.config.seed * 100 + number)


def cell_key(name: str, seed: int) -> str:
    """A cell's name in folders, and among what failed."""
    return f"{name}/seed-{seed}"


def result_path(results: Path, name: str, seed: int) -> Path:
    """Where a cell's figures lie once it is done."""
    return results / f"{cell_key(name, seed)}.json"


def start_model(cell: Cell) -> TrelmForMaskedLM:
    """The arm's model before training."""
    arm, seed, tokenizer = cell.arm, cell.config.seed, cell.tokenizer
    source, training = cell.context.source, cell.config.training
    settings = trelm_config(
        source.config,
        vocabulary_size=len(source.table) if arm.start == "source" else len(tokenizer),
        special_ids=special_ids(tokenizer),
        languages=cell.context.languages,
        hidden_dropout=training.hidden_dropout,
        attention_dropout=training.attention_dropout,
        has_tri_layer=cell.has_tri_layer,
        is_ordered=reorders(cell.program),
    )
    if arm.start == "random":
        return scratch_model(settings, seed)
    if arm.start == "source":
        return transferred_model(
            settings, source, source.table, seed, output=source.output_table, bias=source.output_bias
        )
    made = cell.inputs.rows
    outputs, bias = (None if rows is None else torch.from_numpy(rows) for rows in (made.outputs, made.bias))
    return transferred_model(settings, source, torch.from_numpy(made.words), seed, output=outputs, bias=bias)


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
