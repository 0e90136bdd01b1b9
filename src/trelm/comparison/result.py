"""What one cell has found, as plain values."""

from __future__ import annotations

from typing import Any

from trelm.comparison.cell import Cell
from trelm.comparison.work import EVALUATION, PLAN, stage_folder
from trelm.stages import combines
from trelm.steps.context import Figures
from trelm.steps.outcome import versions

COMPARABLE = ("bits_per_character", "unit_accuracy")
"""Scores of held-out text that mean the same whatever the vocabulary; a token's loss and accuracy do not."""
STAGE_FIGURES = ("updates", "tokens", "seconds", "flops", "planned_updates", "best_update", "development")
"""The last three only of stages whose weights are chosen on development lines."""


def learning_curve(cell: Cell) -> dict[str, list[float]]:
    """Bits per character against what had been spent, all stages one after the other."""
    plan = cell.context.figures(PLAN)
    names = ("updates", "tokens", "seconds", "flops")
    curve: dict[str, list[float]] = {name: [0.0] for name in names} | {"bits_per_character": [plan["first_point"]]}
    spent = dict.fromkeys(names, 0.0)
    for part in cell.program:
        figures = cell.context.figures(stage_folder(part.stage.name))
        for done, value in sorted((int(done), value) for done, value in figures["points"].items()):
            for name in names:
                curve[name].append(spent[name] + figures[name] * done / figures["updates"])
            curve["bits_per_character"].append(value)
        spent = {name: spent[name] + figures[name] for name in names}
    return curve


def cell_result(cell: Cell, tasks: dict[str, Figures]) -> dict[str, Any]:
    """What one cell's JSON holds."""
    context, plan = cell.context, cell.context.figures(PLAN)
    evaluation = context.figures(EVALUATION)
    scores = evaluation["scores"]
    stages = [context.figures(stage_folder(part.stage.name)) for part in cell.program]
    cost = {name: sum(stage[name] for stage in stages) for name in ("seconds", "tokens", "flops", "updates")}
    return {
        "arm": cell.name,
        "seed": cell.config.seed,
        "budget": cell.config.budget.model_dump(exclude_none=True),
        "metrics": {name: scores[name] for name in COMPARABLE}
        | {label: task["score"] for label, task in tasks.items()},
        "tasks": tasks,
        "curve": learning_curve(cell),
        "cost": cost | {"preparation_seconds": plan["preparation_seconds"], "parameters": plan["parameters"]},
        "start": plan["start"],
        "stages": {
            part.stage.name: {name: stage[name] for name in STAGE_FIGURES if name in stage}
            for part, stage in zip(cell.program, stages)
        },
        "combined": combines(part.stage for part in cell.program),
        "scores": scores,
        "examples": evaluation["examples"],
        "device": context.device,
        "precision": context.precision,
        "versions": versions(),
    }
