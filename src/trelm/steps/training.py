"""How long each stage trains, the stages themselves, and the combination of the halves (METHOD section 5)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from trelm.config import Config, JointStageConfig, StageConfig
from trelm.corpus.ragged import Ragged
from trelm.errors import BudgetError
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import combined
from trelm.progress import StepProgress
from trelm.stages import (
    ALIKE,
    COMBINATION,
    COMMONALITY,
    LANGUAGE_SPECIFIC,
    MEASURED_UPDATES,
    PLAIN,
    RANDOM,
    SCRATCH,
    START,
    TRANSFER_JOINT,
    TRANSFER_LOWER,
    TRANSFER_UPPER,
    Feeds,
    Stage,
    StageData,
    Unit,
    flops_per_update,
    is_taught,
    plan_updates,
    run_stage,
    seconds_per_update,
    stage_flops,
    transfer_stages,
)
from trelm.steps.context import DIAGNOSIS, HEAD, MODEL, PLAN, WORD_LINKS, Context, Figures, telling, use_all_cores
from trelm.steps.scoring import score_text
from trelm.steps.selection import selection_of, settled
from trelm.steps.streams import text_streams
from trelm.steps.teaching import load_teaching, teacher_of
from trelm.training.trainer import LoopSettings
from trelm.workspace import atomic_path

STAGE_FOLDERS = {
    COMMONALITY: "stages/1-commonality",
    TRANSFER_UPPER: "stages/2-transfer-upper",
    TRANSFER_LOWER: "stages/3-transfer-lower",
    COMBINATION: "stages/4-combination",
    LANGUAGE_SPECIFIC: "stages/5-language-specific",
    SCRATCH: "stages/scratch",
    PLAIN: "stages/6-plain",
    TRANSFER_JOINT: "stages/2-transfer-joint",  # the last ones came later: a stage's number here is part of its seed
}
STAGE_SECONDS = 3.0  # loading and saving a model, once a stage
EVALUATION_SECONDS = 15.0  # evaluation, export and report of a small run
EVALUATION_SHARE = 0.08  # of a long run: evaluation, and the noise of the clock
PLAIN_SHARE, LEAST_PLAIN_UPDATES = 0.1, 20  # of the language-specific stage, where the run was planned without
ONLY_FOR_TRANSFER = ("word-links", "embeddings", "alignment")


def plan_training(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """Updates of every stage from the budget; fixed from here on, so that a resumed run trains on the same batches.

    A budget in minutes is for the whole command. What preparation took is known by now, a reserve is kept for
    evaluation, and the rest is shared by the transferred model and the from-scratch one, which is also given the time
    that the transfer's own preparation took (links, vectors, alignment): it could have trained meanwhile.
    """
    started = time.perf_counter()
    stages = planned_stages(context.config)
    shares = {stage.name: stage_settings(context, stage).share for stage in stages}
    unit: Unit = "seconds"
    extra = 0.0
    minutes, data = context.config.budget.minutes, stage_data(context)
    if minutes is None:
        unit, amount, per_update = budget_in_updates(context, stages, data, lambda: load_model(context, START))
        for_scratch = amount
    else:
        use_all_cores()
        model, tick = load_model(context, START), lambda done, total: tell.update(done, total, "stages measured")
        per_update = measure(context, model, stages, data, tick)
        preparation = _seconds_of_preparation(context) + time.perf_counter() - started
        extra = _seconds_of(context, only_for_transfer(context.config))
        amount = _seconds_for_transfer(context, 60 * minutes, preparation, extra)
        for_scratch = amount + extra
    updates = plan_updates(amount, unit, shares, per_update)
    if context.config.baseline.scratch:
        updates |= plan_updates(for_scratch, unit, {SCRATCH: 1.0}, {SCRATCH: per_update[LANGUAGE_SPECIFIC]})
    return {
        "updates": updates,
        "unit": unit,
        "transferred": amount,
        "scratch": for_scratch if context.config.baseline.scratch else 0.0,
        "per_update": per_update,
        "device": context.device,
        "precision": context.precision,
        "baseline_rule": _baseline_rule(context.config.baseline.scratch, unit, extra),
    }


def train_stage(context: Context, stage: Stage, folder: Path, tell: StepProgress) -> Figures:
    """Train one stage from where it starts, and keep its model."""
    use_all_cores()
    model = load_model(context, stage.starts_from)
    updates = updates_of(context, stage)
    seed = context.config.seed * 100 + list(STAGE_FOLDERS).index(stage.name)
    training = context.config.training
    batches = stage_data(context).batches(stage, updates=updates, batch_tokens=training.batch_tokens, seed=seed)
    selection = selection_of(context, stage, model, folder, partial(score_text, context))
    trained = run_stage(
        model,
        stage,
        batches,
        loop_settings(context, stage, seed),
        folder,
        telling(tell),
        None if selection is None else selection.after_update,
        on_note=tell.note,
    )
    chosen = settled(selection, trained.updates, updates, tell.note)
    save_model(model, folder)
    return {
        "seconds": trained.seconds,
        "tokens": trained.tokens,
        "updates": trained.updates,
        "flops": stage_flops(model, stage, batches) * (trained.updates / max(updates, 1)),
        "micro_batches": trained.micro_batches,
        "curve": trained.curve,
        **chosen,
    }


def only_for_transfer(config: Config) -> tuple[str, ...]:
    """The steps of preparation that a from-scratch model needs none of."""
    return (*ONLY_FOR_TRANSFER, *((HEAD,) if config.head.updates else ()))


def planned_stages(config: Config) -> tuple[Stage, ...]:
    """The stages that train in a run of this configuration, the baseline's not among them."""
    feeds = joint_feeds(config.stages.transfer_joint)
    stages = transfer_stages(config.training.source_share, config.stages.wanted, feeds)
    return tuple(masked_as(config, stage) for stage in stages)


def masked_as(config: Config, stage: Stage) -> Stage:
    """The stage with the mask rate of its section."""
    return replace(stage, mask_rate=section_of(config, stage).mask_rate)


def joint_feeds(settings: JointStageConfig) -> Feeds:
    """What the stage that trains both halves together reads: CdLM in both directions, taught text, target text."""
    cross_lingual, taught = settings.cross_lingual, settings.taught
    rest = round(1 - cross_lingual - taught, 9)  # 1 - 0.7 - 0.3 is not quite nothing
    return (
        ("source-to-target", cross_lingual / 2),
        ("target-to-source", cross_lingual / 2),
        ("taught-text", taught),
        ("target-text", max(0.0, rest)),
    )


def final_stage(config: Config) -> str:
    """The stage whose model is the run's result."""
    return planned_stages(config)[-1].name


def updates_of(context: Context, stage: Stage) -> int:
    """Updates of a stage as the plan says; a plain stage outside the plan gets a share of the one before it."""
    updates = context.figures(PLAN)["updates"]
    if stage.name == PLAIN and PLAIN not in updates:
        return max(LEAST_PLAIN_UPDATES, round(PLAIN_SHARE * int(updates[LANGUAGE_SPECIFIC])))
    return int(updates[stage.name])


def combine_halves(context: Context, folder: Path, tell: StepProgress) -> Figures:
    """METHOD section 5, stage 3."""
    save_model(combined(load_model(context, TRANSFER_UPPER), load_model(context, TRANSFER_LOWER)), folder)
    return {}


def section_of(config: Config, stage: Stage) -> StageConfig:
    """The configuration's section of a stage."""
    section: StageConfig = getattr(config.stages, stage.name.replace("-", "_"))
    return section


def stage_settings(context: Context, stage: Stage) -> StageConfig:
    """The same of a run's configuration."""
    return section_of(context.config, stage)


def load_model(context: Context, name: str) -> TrelmForMaskedLM:
    """The model that a stage left, or one that training starts from: `START` or `RANDOM`."""
    return TrelmForMaskedLM.from_pretrained(str(model_folder(context, name)))


def model_folder(context: Context, name: str) -> Path:
    """Where `load_model` finds it."""
    folders = {START: f"{MODEL}/start", RANDOM: f"{MODEL}/random"}
    folders |= {stage: f"{place}/model" for stage, place in STAGE_FOLDERS.items()}
    return context.run.folder / folders[name]


def save_model(model: TrelmForMaskedLM, folder: Path) -> None:
    """Write `folder/model`, whole or not at all."""
    target = folder / "model"
    if target.exists():
        shutil.rmtree(target)
    with atomic_path(target) as temporary:
        model.save_pretrained(str(temporary))


def stage_data(context: Context) -> StageData:
    """What every stage draws its batches from."""
    links = context.folder(WORD_LINKS)
    return StageData(
        source=context.tokens("source"),
        target=context.tokens("target"),
        pair_source=context.tokens("parallel-source"),
        pair_target=context.tokens("parallel-target"),
        source_of_target=Ragged.load(links, "source-of-target"),
        target_of_source=Ragged.load(links, "target-of-source"),
        vocabulary=context.vocabulary,
        max_length=context.config.training.max_length,
        mask_rate=context.config.training.mask_rate,
        streams=text_streams(context, context.tokenizer),
        teaching=load_teaching(context),
        label_rate=context.config.training.cross_lingual_labels,
    )


def loop_settings(context: Context, stage: Stage, seed: int) -> LoopSettings:
    """How a stage trains, from the configuration and from what the machine can do."""
    return settings_of(context, stage, stage_settings(context, stage), seed)


def settings_of(context: Context, stage: Stage, section: StageConfig, seed: int) -> LoopSettings:
    """The same of any stage with any settings."""
    shared = shared_settings(
        context, learning_rate=section.learning_rate, warmup=section.warmup, schedule=section.schedule, seed=seed
    )
    teacher = teacher_of(context) if is_taught(stage) else None
    return replace(shared, body_learning_rate=section.body_learning_rate, teacher=teacher)


def shared_settings(
    context: Context, *, learning_rate: float, warmup: float, schedule: Literal["linear", "constant"], seed: int
) -> LoopSettings:
    """The settings of one training: what is its own, and what all trainings of the run share."""
    training = context.config.training
    return LoopSettings(
        learning_rate=learning_rate,
        warmup=warmup,
        schedule=schedule,
        weight_decay=training.weight_decay,
        epsilon=training.epsilon,
        gradient_clipping=training.gradient_clipping,
        precision=context.precision,
        device=context.device,
        checkpoint_minutes=training.checkpoint_minutes,
        log_updates=training.log_updates,
        seed=seed,
        micro_batches=training.micro_batches,
        sharding=training.sharding,
        compiled=training.compile,
    )


def budget_in_updates(
    context: Context, stages: tuple[Stage, ...], data: StageData, model: Callable[[], TrelmForMaskedLM]
) -> tuple[Unit, float, dict[str, float]]:
    """A budget in updates, tokens or FLOPs: its unit, its amount, and what one update of each stage costs in it.

    Args:
        model: gives one of the shapes that is trained, where its shapes are asked for.
    """
    budget, batch_tokens, seed = context.config.budget, context.config.training.batch_tokens, context.config.seed
    if budget.updates is not None:
        return "updates", float(budget.updates), {stage.name: 1.0 for stage in stages}
    if budget.flops is not None:
        shaped = model()
        costs = {s.name: flops_per_update(shaped, s, data, batch_tokens=batch_tokens, seed=seed) for s in stages}
        return "flops", budget.flops, costs
    sample = {stage.name: data.batches(stage, updates=0, batch_tokens=batch_tokens, seed=seed) for stage in stages}
    return "tokens", float(budget.tokens or 0), {name: batches.mean_tokens() for name, batches in sample.items()}


def measure(
    context: Context,
    model: TrelmForMaskedLM,
    stages: tuple[Stage, ...],
    data: StageData,
    on_progress: Callable[[int, int], None],
    updates: int = MEASURED_UPDATES,
) -> dict[str, float]:
    """Seconds of an update of each stage, the mean of so many; of two that do the same work one is measured."""
    measured = {}
    names = {stage.name for stage in stages}
    chosen = [stage for stage in stages if ALIKE.get(stage.name) not in names]
    for number, stage in enumerate(chosen):
        measured[stage.name] = seconds_per_update(
            model,
            stage,
            data,
            loop_settings(context, stage, context.config.seed),
            batch_tokens=context.config.training.batch_tokens,
            measured=updates,
        )
        on_progress(number + 1, len(chosen))
    return {name: measured[name if name in measured else ALIKE[name]] for name in (stage.name for stage in stages)}


def _seconds_for_transfer(context: Context, total: float, preparation: float, extra: float) -> float:
    """Seconds that the transferred model may train.

    Raises:
        BudgetError: nothing is left after preparation.
    """
    baseline = context.config.baseline.scratch
    seconds = seconds_for_each(total, preparation, extra, baseline)
    if seconds <= 0:
        least = least_minutes(preparation + baseline * extra, baseline)
        reserve = evaluation_reserve(total, baseline)
        raise BudgetError(
            f"budget.minutes: expected at least {least:.0f} (preparation took {preparation:.0f} s, evaluation needs "
            f"about {reserve:.0f} s), found {total / 60:g}; raise it with --set budget.minutes={least:.0f} in a new run"
        )
    return seconds


def seconds_for_each(total: float, preparation: float, extra: float, baseline: bool) -> float:
    """Seconds that the transferred model may train, of `total`; not above 0 where preparation leaves nothing.

    The from-scratch model, where there is one, may train as long and `extra` seconds more.
    """
    left = total - preparation - baseline * extra - evaluation_reserve(total, baseline)
    return left / (1 + baseline)


def evaluation_reserve(total: float, baseline: bool) -> float:
    """Seconds kept back for evaluation, export, report, and for loading and saving models."""
    stages = len(STAGE_FOLDERS) - 1  # the joint stage stands in place of others
    return EVALUATION_SECONDS + EVALUATION_SHARE * total + STAGE_SECONDS * (stages + baseline)


def least_minutes(fixed: float, baseline: bool) -> float:
    """The budget that leaves a minute for training besides `fixed` seconds and the reserve, which grows with it."""
    return (fixed + evaluation_reserve(0, baseline)) / (1 - EVALUATION_SHARE) / 60 + 1


def _seconds_of(context: Context, steps: tuple[str, ...]) -> float:
    return sum(float(context.figures(step)["seconds"]) for step in steps)


def _seconds_of_preparation(context: Context) -> float:
    names = ("corpus", "vocabulary", "tokens", *only_for_transfer(context.config), "model", DIAGNOSIS)
    return _seconds_of(context, names)


def _baseline_rule(baseline: bool, unit: Unit, extra: float) -> str:
    if not baseline:
        return "No from-scratch model was trained."
    if unit != "seconds":
        counted = "floating-point operations" if unit == "flops" else unit
        return f"The from-scratch model trains on as many {counted} as all stages of the transferred model together."
    return (
        "The from-scratch model trains for as many seconds as all stages of the transferred model together, plus the "
        f"{extra:.0f} s that the transfer spent on word links, subword vectors and alignment."
    )
