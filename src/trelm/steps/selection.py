"""Stages that end when development text is predicted no better: those of runs, and of the cells of comparisons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trelm.model.encoder import TrelmForMaskedLM
from trelm.stages import Stage
from trelm.steps.context import Context, Figures
from trelm.training.selection import Selection

DEVELOPMENT = "target-development.txt"


def chooses_weights(stage: Stage) -> bool:
    """Whether a stage may end early: it trains on target text alone, and anneals nothing that must come to its end."""
    feeds = {feed for feed, share in stage.feeds if share > 0}
    return feeds == {"target-text"} and not stage.anneals


def selection_of(
    context: Context,
    stage: Stage,
    model: TrelmForMaskedLM,
    folder: Path,
    score: Callable[[TrelmForMaskedLM, list[str]], dict[str, Any]],
) -> Selection | None:
    """What scores the stage's model while it trains; None where it trains as planned.

    Args:
        folder: of the stage. score: masked-text scores of a model on lines, with the masks that all models have.
    """
    training = context.config.training
    if training.patience is None or not chooses_weights(stage):
        return None
    lines = context.lines(DEVELOPMENT)
    return Selection(
        folder,
        model,
        lambda: float(score(model, lines)["bits_per_character"]),
        patience=training.patience,
        every=training.evaluate_updates,
    )


def settled(selection: Selection | None, done: int, planned: int, note: Callable[[str], None]) -> Figures:
    """Give the model its best weights; what the stage's manifest says of it, nothing where nothing was chosen.

    Args:
        done, planned: updates. note: told where the stage ended early.
    """
    if selection is None:
        return {}
    selection.restore_best()
    figures = selection.figures(planned)
    if done < planned:
        note(f"stopped after {done:,} of {planned:,} updates, best on the development lines after "
             f"{figures['best_update']:,}")  # fmt: skip
    return figures
