"""All cells of a comparison, what they share first; run again, it goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trelm.comparison.arms import ARMS, Arm
from trelm.comparison.cell import Cell
from trelm.comparison.pictures import table_picture, word_link_picture
from trelm.comparison.preparation import CellRun, places, plan_preparation, prepare_all
from trelm.comparison.result import cell_result
from trelm.comparison.scoring import score
from trelm.comparison.work import cell_steps, do_step, final_model, remove_models
from trelm.config import Config, dump_config
from trelm.errors import TrelmError
from trelm.progress import Progress, StepProgress
from trelm.report.comparison_schema import COMPARISON, RESULTS
from trelm.steps.context import ALIGNMENT, Context, Figures
from trelm.steps.outcome import task_lines, versions
from trelm.steps.tasks import encoder_of, run_task
from trelm.workspace import digest, read_json, write_json

CELLS, BITS = "cells", "bits_per_character"


@dataclass(frozen=True)
class Comparison:
    """A comparison in its folder.

    Attributes:
        config: with the comparison's own seed, which fixes what is prepared and which words are masked.
        inputs: the input files with their sizes.
    """

    config: Config
    root: Path
    inputs: list[str]

    def arms(self) -> dict[str, tuple[Arm, Config]]:
        """Each arm with its configuration.

        Raises:
            ConfigError: an arm's settings do not fit the configuration.
        """
        return {
            name: (ARMS[name], ARMS[name].configure(self.config, self.config.seed))
            for name in self.config.comparison.arms
        }

    def cell(self, name: str, seed: int) -> Cell:
        """The cell of an arm with a seed."""
        arm, config = ARMS[name], ARMS[name].configure(self.config, self.config.seed)
        there = places(config, arm, self.root, self.inputs)
        run = CellRun(self.root / CELLS / name / f"seed-{seed}", there)
        return Cell(name, arm, Context(arm.configure(self.config, seed), run), self.config.seed)

    def result_path(self, name: str, seed: int) -> Path:
        """Where a cell's figures lie once it is done."""
        return self.root / RESULTS / name / f"seed-{seed}.json"


def run_comparison(comparison: Comparison, progress: Progress) -> dict[str, Any]:
    """Do every cell that is not done, seed by seed; returns what `comparison.json` holds.

    A cell that cannot be done, as with a budget too small for its stages, is named under `failed`; the others go on.
    """
    arms = comparison.arms()
    prepare_all(plan_preparation(arms, comparison.root, comparison.inputs), comparison.root, progress)
    overview = describe(comparison)
    write_json(comparison.root / COMPARISON, overview)
    for seed in comparison.config.comparison.seeds:
        for name in arms:
            label = f"{name}, seed {seed}"
            if comparison.result_path(name, seed).exists():
                progress.skip(label)
                continue
            try:
                with progress.step(label) as tell:
                    _do_cell(comparison, name, seed, tell)
            except TrelmError as error:
                overview["failed"][f"{name}/seed-{seed}"] = str(error)
                write_json(comparison.root / COMPARISON, overview)
    return overview


def steps_in_all(comparison: Comparison) -> int:
    """Steps of preparation and cells."""
    prepared = plan_preparation(comparison.arms(), comparison.root, comparison.inputs)
    return len(prepared) + len(comparison.config.comparison.arms) * len(comparison.config.comparison.seeds)


def _do_cell(comparison: Comparison, name: str, seed: int, tell: StepProgress) -> None:
    cell = comparison.cell(name, seed)
    inputs = digest([claimed(cell.config), sorted(path.name for path in _prepared(cell).values())])
    for step, work in cell_steps(cell).items():
        tell.note(step)
        do_step(cell, step, work, inputs, tell)
    tasks = _score_tasks(cell, tell)
    write_json(comparison.result_path(name, seed), cell_result(cell, tasks))
    remove_models(cell)


def claimed(config: Config) -> str:
    """The configuration without what may grow: arms and seeds can be added to a comparison."""
    values = config.model_dump(mode="json", exclude={"card": True, "comparison": {"arms", "seeds"}})
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _prepared(cell: Cell) -> Mapping[str, Path]:
    run = cell.context.run
    return run.prepared if isinstance(run, CellRun) else {}


def _score_tasks(cell: Cell, tell: StepProgress) -> dict[str, Figures]:
    """Every evaluation set but those of whole tables, with the cell's seed; text is filled like the held-out text."""
    context, model = cell.context, final_model(cell)
    encoder = encoder_of(
        model.trelm,
        cell.tokenizer,
        # trained in one language, or folding into a plain model, which has one
        languages=() if not cell.arm.reads_pairs or model.config.plainness == 1.0 else None,
        device=context.device,
        precision=context.precision,
    )
    scores: dict[str, Figures] = {}
    for number, task in enumerate(cell.config.evaluation):
        if task.task == "translation":
            continue
        tell.note(task.label)
        if task.takes_encoder:
            work = context.run.folder / "tasks" / str(number)
            scores[task.label] = run_task(encoder, task, seeds=(cell.config.seed,), work=work, cache=None, tell=tell)
        else:
            filled = score(cell, model, task_lines(task))
            scores[task.label] = {"task": "text", "metric": BITS, "score": filled[BITS], "scores": filled}
    return scores


def describe(comparison: Comparison) -> dict[str, Any]:
    """What the report needs besides the cells."""
    config, arms = comparison.config, comparison.arms()
    shown = [(arm, one) for arm, one in arms.values() if ALIGNMENT in arm.prepares]
    context = None
    if shown:
        arm, one = shown[0]
        context = Context(one, CellRun(comparison.root, places(one, arm, comparison.root, comparison.inputs)))
    scored = [task for task in config.evaluation if task.task != "translation"]
    return {
        "title": f"{config.source.model} to {config.target.language}: {len(arms)} ways compared",
        "languages": {"source": config.source.language, "target": config.target.language},
        "budget": config.budget.model_dump(exclude_none=True),
        "budget_rule": budget_rule(config),
        "arms": {name: arm.description for name, (arm, _) in arms.items()},
        "seeds": list(config.comparison.seeds),
        "tasks": {
            task.label: {"task": task.task} if task.takes_encoder else {"task": "text", "metric": BITS}
            for task in scored
        },
        "failed": {},
        "word_links": None if context is None else word_link_picture(context),
        "projection": None if context is None else table_picture(context),
        "diagnosis": None,
        "config": dump_config(config),
        "versions": versions(),
    }


def budget_rule(config: Config) -> str:
    """What is equal between the cells, in words."""
    budget = config.budget
    if budget.minutes is not None:
        equal = (
            f"Every cell has {budget.minutes:g} minutes for its own preparation (word links, vectors, alignment, a "
            "fitted head: what the arm needs of these, at the time it took once) and for training, on this machine"
        )
    elif budget.flops is not None:
        equal = f"Every cell trains for {budget.flops:.3g} floating-point operations"
    elif budget.tokens is not None:
        equal = f"Every cell trains on {budget.tokens:,} tokens, padding not counted, as its own tokenizer counts them"
    else:
        equal = f"Every cell trains for {budget.updates:,} updates"
    if budget.minutes is None:
        equal += "; the time of its preparation is listed and not counted"
    return (
        f"{equal}. The pairs' target side is among the text of every arm. What is prepared is shared by all seeds and "
        "by all arms that need it alike; a seed fixes drawn rows, batches and masks. Evaluation is not counted."
    )


def read_results(root: Path) -> list[dict[str, Any]]:
    """The figures of every finished cell."""
    return [read_json(path) for path in sorted((root / RESULTS).glob("*/seed-*.json"))]
