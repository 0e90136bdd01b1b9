"""All cells of a comparison, what they share first; run again, it goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from trelm.comparison.arms import Arm, arm_named
from trelm.comparison.cell import Cell, cell_key, result_path
from trelm.comparison.inputs import PreparedInputs
from trelm.comparison.pictures import table_picture, word_link_picture
from trelm.comparison.preparation import CellRun, places, plan_preparation, prepare_all
from trelm.comparison.result import cell_result
from trelm.comparison.scoring import score
from trelm.comparison.work import cell_steps, do_step, final_model, remove_models
from trelm.config import Config, dump_config
from trelm.errors import RunFolderError, TrelmError
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
            name: (arm, arm.configure(self.config, self.config.seed))
            for name in self.config.comparison.arms
            for arm in (arm_named(self.config, name),)
        }

    def cell(self, name: str, seed: int) -> Cell:
        """The cell of an arm with a seed."""
        arm = arm_named(self.config, name)
        config = arm.configure(self.config, self.config.seed)
        there = places(config, arm, self.root, self.inputs)
        run = CellRun(self._place(name, seed), there)
        context = Context(arm.configure(self.config, seed), run)
        return Cell(name, arm, context, PreparedInputs(arm, context), self.config.seed)

    def cells(self) -> list[tuple[str, int]]:
        """Every arm with every seed, seed by seed: what there is when somebody stops is balanced."""
        settings = self.config.comparison
        return [(name, seed) for seed in settings.seeds for name in settings.arms]

    def job(self, cell: tuple[str, int]) -> Job:
        """A cell as something to be done."""
        name, seed = cell
        return Job(
            name,
            seed,
            result_path(self.root / RESULTS, name, seed),
            partial(self.cell, name, seed),
            self._place(name, seed),
        )

    def _place(self, name: str, seed: int) -> Path:
        return self.root / CELLS / cell_key(name, seed)


@dataclass(frozen=True)
class Job:
    """A cell to be done.

    Attributes:
        result: where its figures go. make: called when its turn has come. place: its own folder.
    """

    name: str
    seed: int
    result: Path
    make: Callable[[], Cell]
    place: Path

    @property
    def key(self) -> str:
        """The cell's name in folders and among what failed."""
        return cell_key(self.name, self.seed)


def run_comparison(comparison: Comparison, progress: Progress) -> dict[str, Any]:
    """Do every cell that is not done, seed by seed; returns what `comparison.json` holds.

    A cell that cannot be done, as with a budget too small for its stages, is named under `failed`; the others go on.
    """
    overview = prepare_comparison(comparison, progress)

    def on_failure(job: Job, error: Exception) -> None:
        overview["failed"][job.key] = str(error)
        write_json(comparison.root / COMPARISON, overview)

    do_cells(map(comparison.job, comparison.cells()), progress, on_failure)
    return overview


def prepare_comparison(comparison: Comparison, progress: Progress) -> dict[str, Any]:
    """All that cells share; returns what `comparison.json` holds before any is done.

    Raises:
        RunFolderError: a variant has results of other settings.
    """
    _refuse_changed_variants(comparison)
    prepare_all(plan_preparation(comparison.arms(), comparison.root, comparison.inputs), comparison.root, progress)
    overview = describe(comparison)
    write_json(comparison.root / COMPARISON, overview)
    return overview


def _refuse_changed_variants(comparison: Comparison) -> None:
    path = comparison.root / COMPARISON
    if not path.exists():
        return
    before = yaml.safe_load(read_json(path)["config"])["comparison"].get("variants", {})
    for name, changes in comparison.config.comparison.variants.items():
        if before.get(name, changes) != changes and (comparison.root / RESULTS / name).exists():
            raise RunFolderError(
                f"comparison.variants: expected '{name}' with the settings of its results in {comparison.root} "
                f"({before[name]}), found others ({changes}); give it another name"
            )


def do_cells(
    jobs: Iterable[Job],
    progress: Progress,
    on_failure: Callable[[Job, Exception], None],
    faults: type[Exception] = TrelmError,
) -> None:
    """Do every cell that has no result.

    Args:
        jobs: each is asked for when the one before is done. on_failure: told of `faults`, after which the others go on.
    """
    for job in jobs:
        label = f"{job.name}, seed {job.seed}"
        if job.result.exists():
            progress.skip(label)
            continue
        try:
            with progress.step(label) as tell:
                _do_cell(job.make(), job.result, tell)
        except faults as error:
            on_failure(job, error)


def steps_of_preparation(comparison: Comparison) -> int:
    """How many there are."""
    return len(plan_preparation(comparison.arms(), comparison.root, comparison.inputs))


def _do_cell(cell: Cell, result: Path, tell: StepProgress) -> None:
    inputs = digest(cell.inputs.depends_on)
    for step, work in cell_steps(cell).items():
        tell.note(step)
        do_step(cell, step, work, inputs, tell)
    tasks = _score_tasks(cell, tell)
    write_json(result, cell_result(cell, tasks))
    remove_models(cell)


def _score_tasks(cell: Cell, tell: StepProgress) -> dict[str, Figures]:
    """Every evaluation set but those of whole tables, with the cell's seed; text is filled like the held-out text."""
    context, model = cell.context, final_model(cell)
    encoder = encoder_of(
        model.trelm,
        cell.tokenizer,
        languages=() if model.config.plainness == 1.0 else None,  # it folds into a plain model, which has one
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
