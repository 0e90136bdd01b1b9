"""The steps of a cell: its plan, its stages, its evaluation; stopped at any moment, they go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trelm.comparison.arms import TRANSFERS
from trelm.comparison.cell import Cell, budget_of, mean_flops, start_model
from trelm.comparison.scoring import HELD_OUT, point, points_within, score
from trelm.config import HELD_OUT_SCORES
from trelm.model.configuration import TrelmConfig
from trelm.model.encoder import TrelmForMaskedLM
from trelm.model.halves import combined
from trelm.model.source import dropout_of
from trelm.progress import StepProgress
from trelm.stages import COMBINATION, START, Stage, plan_updates, run_stage
from trelm.steps.context import Figures, carry_out, telling, use_all_cores
from trelm.steps.outcome import fill_masks
from trelm.steps.selection import selection_of, settled
from trelm.steps.training import save_model
from trelm.training.checkpoints import remove_checkpoints
from trelm.workspace import Step, read_json, write_json

POINTS = "points.json"
PLAN, EVALUATION = "plan", "evaluation"
Work = Callable[[Path, StepProgress], Figures]


def plan_cell(cell: Cell, folder: Path, tell: StepProgress) -> Figures:
    """Make the model before training, score it, and fix the updates of each stage."""
    use_all_cores()
    started = time.perf_counter()
    model = start_model(cell)
    spent = cell.inputs.preparation_seconds + time.perf_counter() - started
    save_model(model, folder)
    unit, amount, per_update = budget_of(cell, model, spent)
    shares = {part.stage.name: part.settings.share for part in cell.program}
    updates = plan_updates(amount, unit, shares, per_update)
    start = score(cell, model, cell.context.lines(HELD_OUT))
    return {
        "updates": updates,
        "unit": unit,
        "amount": amount,
        "preparation_seconds": spent,
        "parameters": model.num_parameters(),
        "flops_per_update": per_update if unit == "flops" else mean_flops(cell, model),
        "start": {name: start[name] for name in HELD_OUT_SCORES},
        "first_point": point(cell, model),
    }


def train_cell_stage(cell: Cell, number: int, folder: Path, tell: StepProgress) -> Figures:
    """Train one stage of the arm from where it starts, scoring it on the way, and keep its model."""
    use_all_cores()
    part, plan = cell.program[number], cell.context.figures(PLAN)
    stage, updates = part.stage, plan["updates"]
    model = _starting_model(cell, stage)
    settings = cell.settings(number)
    batches = cell.data.batches(
        stage, updates=updates[stage.name], batch_tokens=cell.config.training.batch_tokens, seed=settings.seed
    )
    wanted = set(points_within(updates, cell.config.comparison.evaluations)[stage.name])
    points = _Points(folder / POINTS)

    selection = selection_of(cell.context, stage, model, folder, partial(score, cell))

    def after_update(done: int, total: int) -> bool:
        if done in wanted:
            points.keep(done, point(cell, model))
        return selection is not None and selection.after_update(done, total)

    trained = run_stage(
        model,
        stage,
        batches,
        settings,
        folder,
        telling(tell),
        after_update,
    )
    chosen = settled(selection, trained.updates, updates[stage.name], tell.note)
    save_model(model, folder)
    return {
        "seconds": trained.seconds,
        "tokens": trained.tokens,
        "updates": trained.updates,
        "flops": plan["flops_per_update"][stage.name] * trained.updates,
        "points": points.read(),
        **chosen,
    }


@dataclass(frozen=True)
class _Points:
    """The points of a stage's curve on disk: those before an interruption are not lost."""

    path: Path

    def read(self) -> dict[str, float]:
        return dict(read_json(self.path)) if self.path.exists() else {}

    def keep(self, done: int, value: float) -> None:
        write_json(self.path, {**self.read(), str(done): value})


def _starting_model(cell: Cell, stage: Stage) -> TrelmForMaskedLM:
    if stage.starts_from == COMBINATION:
        return combined(*(_load(cell, name) for name in TRANSFERS))
    return _load(cell, PLAN if stage.starts_from == START else stage.starts_from)


def _load(cell: Cell, name: str) -> TrelmForMaskedLM:
    folder = cell.context.run.folder / (name if name == PLAN else stage_folder(name))
    return TrelmForMaskedLM.from_pretrained(str(folder / "model"))


def stage_folder(name: str) -> str:
    """The folder of a stage in its cell's."""
    return f"stages/{name}"


def evaluate_cell(cell: Cell, folder: Path, tell: StepProgress) -> Figures:
    """The final model on all held-out lines, and masks that it fills."""
    use_all_cores()
    model = _load(cell, cell.program[-1].stage.name)
    lines = cell.context.lines(HELD_OUT)
    return {"scores": score(cell, model, lines), "examples": fill_masks(cell.context, model, lines, cell.tokenizer)}


def cell_steps(cell: Cell) -> dict[str, Work]:
    """Every step of a cell but its tasks, by the folder that it fills."""
    return {
        PLAN: partial(plan_cell, cell),
        **{stage_folder(part.stage.name): partial(train_cell_stage, cell, i) for i, part in enumerate(cell.program)},
        EVALUATION: partial(evaluate_cell, cell),
    }


def do_step(cell: Cell, name: str, work: Work, inputs: str, tell: StepProgress) -> None:
    """One step of a cell, unless it is done; training goes on from its last checkpoint."""
    place: Step = cell.context.run.step(name)
    if place.is_done(inputs):
        remove_checkpoints(place.folder)
        return
    if name == PLAN and place.damage() is not None and cell.config.budget.minutes is not None:
        for other in cell_steps(cell):  # a plan measured again gives other numbers of updates
            if other != PLAN:
                cell.context.run.step(other).forget()
    carry_out(place, inputs, partial(work, place.folder, tell), resumes=name.startswith("stages/"), note=tell.note)


def remove_models(cell: Cell) -> None:
    """Keep the final model alone."""
    last = cell.program[-1].stage.name
    for name in (PLAN, *(stage_folder(part.stage.name) for part in cell.program if part.stage.name != last)):
        cell.context.run.step(name).drop("model")


def final_model(cell: Cell) -> TrelmForMaskedLM:
    """The arm's model after its last stage, with the source's own dropout, which tuning expects."""
    folder = str(cell.context.run.folder / stage_folder(cell.program[-1].stage.name) / "model")
    config = TrelmConfig.from_pretrained(folder)
    for name, rate in dropout_of(cell.context.pretrained.config).items():
        setattr(config.source, name, rate)
    model: TrelmForMaskedLM = TrelmForMaskedLM.from_pretrained(folder, config=config)
    return model
