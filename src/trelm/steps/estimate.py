"""`trelm plan`: what will run, how long, how much memory and disk, from a look at the text and a few real updates."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trelm.config import Config
from trelm.config.sections import AlignmentConfig
from trelm.corpus.parallel import read_pairs
from trelm.corpus.ragged import Ragged
from trelm.corpus.text import read_text
from trelm.cost import human_bytes, human_count, human_seconds, memory_bytes
from trelm.errors import BudgetError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.families import family_of, padding_of_positions
from trelm.model.shape import layer_shape
from trelm.model.source import transferred_model
from trelm.stages import LANGUAGE_SPECIFIC, SCRATCH, StageData, plan_updates
from trelm.steps.context import Context, parallel_sources, use_all_cores
from trelm.steps.diagnosis import HEAD_BATCH_TOKENS
from trelm.steps.preparation import model_config
from trelm.steps.training import (
    budget_in_updates,
    evaluation_reserve,
    least_minutes,
    measure,
    only_for_transfer,
    planned_stages,
    seconds_for_each,
    stage_settings,
)
from trelm.training.batches import Vocabulary

CHARACTERS_A_TOKEN = 4.2
MODELS_ON_DISK = 8  # two before training, one a stage and one of the export


@dataclass(frozen=True)
class PreparationRates:
    """Work a second of one core, measured on an x86 server core of 2023; `trelm plan` says that it is a guess."""

    lines_cleaned: float = 25_000
    characters_in_vocabulary: float = 1_800_000
    tokens_encoded: float = 350_000
    cells_linked: float = 1_300_000  # source tokens times target tokens of a pair, both directions, all iterations
    tokens_in_vectors: float = 100_000
    tokens_fitted: float = 1_500  # of a head: the frozen encoder reads them
    operations_of_a_game: float = 7e10  # floating-point ones
    steps_of_a_game: float = 1_000  # that cost nothing but their calls


@dataclass(frozen=True)
class TextSize:
    """Lines and characters."""

    lines: int
    characters: int

    @property
    def tokens(self) -> int:
        """Subwords, about."""
        return round(self.characters / CHARACTERS_A_TOKEN)

    @property
    def mean_tokens(self) -> int:
        """Subwords of a line, about, and at least 2."""
        return max(2, self.tokens // max(self.lines, 1))


def estimate(context: Context) -> dict[str, Any]:
    """Steps with seconds, updates and tokens; memory and disk; nothing is written.

    Raises:
        BudgetError: the budget is too small for the stages.
        TrelmError: an input cannot be read.
    """
    config = context.config
    source, target, pairs = _sizes(config)
    preparation = _preparation_seconds(context, source, target, pairs)
    model, data = _model(context), _random_data(context, target)
    stages = planned_stages(config)
    use_all_cores()
    seconds = measure(context, model, stages, data, lambda done, total: None)
    updates = _updates(context, preparation, seconds, data, model)
    rows = [_row(name, value, what="guess") for name, value in preparation.items()]
    for name, count in updates.items():
        of = LANGUAGE_SPECIFIC if name == SCRATCH else name
        tokens = count * config.training.batch_tokens
        rows.append(_row(name, count * seconds[of], count, tokens, "measured"))
    planned = 60 * (config.budget.minutes or 0) or sum(row["plain_seconds"] for row in rows)
    reserve = evaluation_reserve(planned, config.baseline.scratch)
    rows.append(_row("evaluation, export, report", reserve, what="guess"))
    return {"steps": rows, "summary": _summary(context, model, rows, source, target, pairs)}


def _sizes(config: Config) -> tuple[TextSize, TextSize, TextSize]:
    languages = (config.source.language, config.target.language)
    pairs = (" ".join(pair) for entry in parallel_sources(config) for pair in read_pairs(entry, languages))
    return _size(config, config.source.text), _size(config, config.target.text), _measure_lines(pairs)


def _size(config: Config, sources: Iterable[str]) -> TextSize:
    return _measure_lines(line for source in sources for line in read_text(source))


def _measure_lines(lines: Iterable[str]) -> TextSize:
    count = characters = 0
    for line in lines:
        count += 1
        characters += len(line)
    return TextSize(count, characters)


def _preparation_seconds(context: Context, source: TextSize, target: TextSize, pairs: TextSize) -> dict[str, float]:
    """Seconds of each preparation step at typical rates."""
    config, rates = context.config, PreparationRates()
    tokens = source.tokens + target.tokens + pairs.tokens
    mean = pairs.tokens / max(2 * pairs.lines, 1)
    cells = pairs.lines * mean * mean
    read = 2 * min(max(source.tokens, target.tokens), config.embeddings.max_tokens or 10**12)
    fitted = config.head.updates * config.head.batch_tokens
    return ({"head": fitted / rates.tokens_fitted} if fitted else {}) | {
        "corpus": (source.lines + target.lines + 2 * pairs.lines) / rates.lines_cleaned,
        "vocabulary": 2 * max(source.characters, target.characters) / rates.characters_in_vocabulary,
        "tokens": tokens / rates.tokens_encoded,
        "word-links": cells / rates.cells_linked * config.word_links.iterations / 5,
        "embeddings": read * config.embeddings.epochs / rates.tokens_in_vectors,
        "alignment": 20.0
        + _games(config.alignment) * _game_seconds(config.alignment, context.pretrained.table.shape[1]),
        "model": 5.0,
        "diagnosis": 12.0 + config.diagnosis.head_updates * HEAD_BATCH_TOKENS / rates.tokens_fitted,
    }


def _games(alignment: AlignmentConfig) -> int:
    """How many games are played at most; `auto` plays only where every map from pairs collapsed, which is rare."""
    return 1 + alignment.restarts if alignment.method == "adversarial" else 0


def _game_seconds(alignment: AlignmentConfig, width: int) -> float:
    """Seconds of one game between tables of this width, by the operations of its two players."""
    rates, rows, hidden = PreparationRates(), 2 * alignment.adversarial_batch, alignment.discriminator_width
    operations = 6 * rows * hidden * (width + hidden)  # two for each weight and row, forward, and twice that backward
    passes = alignment.discriminator_steps + 1  # that of the mapping, on half of the rows, is counted as a whole
    steps = alignment.adversarial_epochs * alignment.adversarial_samples / alignment.adversarial_batch
    return steps * passes * (1 / rates.steps_of_a_game + operations / rates.operations_of_a_game)


def _model(context: Context) -> TrelmForMaskedLM:
    """A model of the right size; its word table is random, which does not change its speed."""
    size, width = context.config.vocabulary.size, context.pretrained.table.shape[1]
    return transferred_model(
        model_config(context, size, _placeholder_ids(context)),
        context.pretrained,
        torch.randn(size, width, generator=torch.Generator().manual_seed(context.config.seed)),
        context.config.seed,
    )


def _placeholder_ids(context: Context) -> dict[str, int]:
    """Ids of special tokens before there is a vocabulary; the padding token's where the encoder wants it."""
    padding = padding_of_positions(context.pretrained.config)
    others = [number for number in range(4) if number != padding][:3]
    ids = {"pad": padding, **dict(zip(("cls", "sep", "mask"), others))}
    return ids | {"bos": ids["cls"], "eos": ids["sep"]}


def _random_data(context: Context, target: TextSize) -> StageData:
    """Random sentences of the text's mean length."""
    random = np.random.default_rng(context.config.seed)
    lengths = np.clip(random.poisson(target.mean_tokens, 4000), 1, None)
    text = Ragged.of([random.integers(5, context.config.vocabulary.size, length) for length in lengths])
    links = Ragged.of([np.arange(length) for length in lengths])
    ids = _placeholder_ids(context)
    vocabulary = Vocabulary(
        context.config.vocabulary.size, ids["cls"], ids["sep"], ids["pad"], ids["mask"], tuple(range(len(ids)))
    )
    training = context.config.training
    return StageData(text, text, text, text, links, links, vocabulary, training.max_length, training.mask_rate)


def _updates(
    context: Context,
    preparation: dict[str, float],
    seconds: dict[str, float],
    data: StageData,
    model: TrelmForMaskedLM,
) -> dict[str, int]:
    """Updates of each stage, as the run would plan them."""
    budget, stages = context.config.budget, planned_stages(context.config)
    shares = {stage.name: stage_settings(context, stage).share for stage in stages}
    if budget.minutes is not None:
        baseline, prepared = context.config.baseline.scratch, sum(preparation.values())
        extra = sum(preparation[name] for name in only_for_transfer(context.config))
        amount = seconds_for_each(60 * budget.minutes, prepared, extra, baseline)
        if amount <= 0:
            least = least_minutes(prepared + baseline * extra, baseline)
            raise BudgetError(f"budget.minutes: expected about {least:.0f} or more, found {budget.minutes:g}; raise it")
        updates = plan_updates(amount, "seconds", shares, seconds)
        scratch = int((amount + extra) / seconds[LANGUAGE_SPECIFIC])
    else:
        unit, amount, per_update = budget_in_updates(context, stages, data, lambda: model)
        updates = plan_updates(amount, unit, shares, per_update)
        scratch = int(amount / per_update[LANGUAGE_SPECIFIC])
    return updates | ({SCRATCH: scratch} if context.config.baseline.scratch else {})


def _row(name: str, seconds: float, updates: int = 0, tokens: int = 0, what: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "seconds": human_seconds(seconds),
        "plain_seconds": seconds,
        "updates": f"{updates:,}" if updates else "",
        "tokens": human_count(tokens) if tokens else "",
        "what": what,
    }


def _memory(context: Context, parameters: int, mean_length: int) -> int:
    """Bytes at the peak of an update: of a batch of mean sentences or of the longest, whichever needs more.

    (What a layer keeps for each sequence weighs most where they are short; attention weights where they are long.)
    """
    backbone, training = context.pretrained.backbone, context.config.training
    layers = family_of(backbone.config).layers(backbone)
    return max(
        memory_bytes(
            layer_shape(layers[0], backbone.config),
            parameters=parameters,
            trained_parameters=parameters,
            tokens=training.batch_tokens,
            length=length,
            layers=len(layers) + 1,
            vocabulary=context.config.vocabulary.size,
            labelled=training.batch_tokens // 2,
        )
        for length in (min(mean_length + 2, training.max_length), training.max_length)
    )


def _summary(context: Context, model: TrelmForMaskedLM, rows: list[dict[str, Any]], *sizes: TextSize) -> list[str]:
    parameters, target = model.num_parameters(), sizes[1]
    memory = _memory(context, parameters, target.mean_tokens)
    disk = 4 * parameters * (MODELS_ON_DISK + 3) + 8 * sum(size.characters for size in sizes)
    names = ("source text", "target text", "pairs")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        "; ".join(
            f"{name}: {size.lines:,} lines, {human_count(size.characters)} characters"
            for name, size in zip(names, sizes)
        ),
        f"model: {human_count(parameters)} parameters; {context.device}, {cores} cores, {context.precision}",
        f"time: about {human_seconds(sum(row['plain_seconds'] for row in rows))}; "
        f"memory: about {human_bytes(memory)} for training; disk: about {human_bytes(disk)}",
    ]
